"""Evaluation of models: losses of answers."""
