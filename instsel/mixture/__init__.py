"""Effects of categories on each other, the mixture that follows from them, and the order of training."""
