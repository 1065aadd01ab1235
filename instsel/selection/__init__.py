"""Ways to choose rows of a pool: one module a method, each with a `select` that returns a `Selection`."""

from instsel.selection.base import Selection

__all__ = ["Selection"]
