"""LoRA fine-tuning of one worker: what it learns from, in which order, and what it leaves."""
