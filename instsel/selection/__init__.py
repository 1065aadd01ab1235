"""Selection methods: one module each, with an array function `select` and the class that a study file names."""

from instsel.selection.base import Selection

__all__ = ["Selection"]
