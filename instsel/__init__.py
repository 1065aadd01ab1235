"""instsel: choose the instruction examples that are worth training on, and train on them."""

__version__ = "0.4.0"
