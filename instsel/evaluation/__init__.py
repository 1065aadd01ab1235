"""Evaluation of models: losses of answers, and what a gain in them consists of."""

from instsel.evaluation.gains import form_and_content

__all__ = ["form_and_content"]
