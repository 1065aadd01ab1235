"""How categories of the pool help or harm each other, the mixture that follows from it, and the order of training."""
