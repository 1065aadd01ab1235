"""LoRA fine-tuning in one worker process: training set, order, steps, checkpoints."""
