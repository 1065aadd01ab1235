"""The linear program of the mixture under its public names; `mixture.optimise` has the code."""

from instsel.mixture.optimise import MixtureSolution, counts, linear

solve = linear
Solution = MixtureSolution

__all__ = ["Solution", "counts", "solve"]
