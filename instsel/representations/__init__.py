"""A vector for every row, without gradients: prompts by an encoder, whole examples by the study's own model."""
