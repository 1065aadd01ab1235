"""Selection methods: one module each, with an array function `select` and the class that a study file names."""

from instsel.selection.picked import Selection

__all__ = ["Selection"]
