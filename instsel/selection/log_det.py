"""Log-determinant by greedy: rows that span as much as they can."""

from typing import Protocol

import numpy as np

from instsel import checks
from instsel.selection.result import Selection
from instsel.selection.similarity import TIE, check_metric, cosine_units, lowest_of_largest, similarity_matrix


def log_det(x: np.ndarray, budget: int, *, metric: str = "cosine") -> Selection:
    """Pick rows greedily for log det(S_X + I), S_X the similarities among the picked rows X.

    The paper prints det(S_X); the 1 on the diagonal is the release's (arXiv 2403.08370, Section 3, submodlib's
    lambdaVal = 1), and the gain of row v is log(1 + s_vv - s_Xv^T (S_X + I)^-1 s_Xv). Of embeddings no matrix of pairs
    is made: det(S_X + I) = det(I + sum u u^T) over the picked unit rows u, and a pick changes the inverse of that by
    rank one (Sherman-Morrison), which takes O(n d) time a pick and 8 (n + k) d bytes. A given matrix is factorised pick
    by pick (Cholesky): O(k n) a pick and 8 k n bytes.

    Gains whose exponentials are within 1e-12 of the largest 1 + s_vv are ties, which go to the lowest row: rounding is
    far below that. submodlib takes the highest row.

    Args:
        x: (n, d) embeddings, or (n, n) similarities for metric "precomputed"; any real dtype.
        budget: rows wanted, k; above n gives all n.
        metric: "cosine" or "precomputed".

    Returns:
        Selection whose scores are the gains; no `called_by`.

    Raises:
        ValueError: wrong rank, no columns, NaN or infinity, a matrix that is not square or not symmetric, or that has
            no log-determinant with the next row (S + I is not positive definite), another metric, a negative budget.
    """
    check_metric(metric)
    if metric == "cosine":
        units = cosine_units(x)
        return from_units(units, checks.budget(budget, len(units)))
    matrix = similarity_matrix(x)
    count = checks.budget(budget, len(matrix))
    return _greedy(np.asarray(matrix.diagonal(), dtype=np.float64), _Cholesky(matrix, count), count)


def from_units(units: np.ndarray, count: int) -> Selection:
    """Pick `count` rows, at most n, of unit rows float64 (n, d), as `similarity.unit_rows` makes them."""
    return _greedy(np.where(units.any(axis=1), 1.0, 0.0), _ShermanMorrison(units, count), count)


class _Explained(Protocol):
    def __call__(self, row: int, pivot: float) -> np.ndarray:
        """Return (n,): by how much the pivots fall once `row`, of this pivot, is picked."""


class _ShermanMorrison:
    """In the space of the embeddings: the inverse of I + sum u u^T over the picked rows is I - sum w w^T."""

    def __init__(self, units: np.ndarray, count: int) -> None:
        self.units = units
        self.directions = np.empty((count, units.shape[1]))
        self.picked = 0

    def __call__(self, row: int, pivot: float) -> np.ndarray:
        before = self.directions[: self.picked]
        direction = self.units[row] - (before @ self.units[row]) @ before
        direction /= np.sqrt(pivot)
        self.directions[self.picked] = direction
        self.picked += 1
        return np.square(self.units @ direction)


class _Cholesky:
    """Among the rows: the factor of S_X + I, and its rows for everything not yet picked."""

    def __init__(self, matrix: np.ndarray, count: int) -> None:
        self.matrix = matrix
        self.factor = np.empty((count, len(matrix)))
        self.picked = 0

    def __call__(self, row: int, pivot: float) -> np.ndarray:
        before = self.factor[: self.picked]
        column = self.matrix[row] - before[:, row] @ before
        column /= np.sqrt(pivot)
        self.factor[self.picked] = column
        self.picked += 1
        return np.square(column)


def _greedy(own: np.ndarray, explained: _Explained, count: int) -> Selection:
    """Walk with the similarities of rows with themselves (n,); the gain of a row is the logarithm of its pivot."""
    pivots = 1 + own
    slack = TIE * pivots.max(initial=0)
    left = np.ones(len(own), dtype=bool)
    indices, scores = np.empty(count, np.int64), np.empty(count)
    for pick in range(count):
        bad = np.flatnonzero(left & (pivots <= 0))
        if bad.size:
            raise ValueError(
                f"x must be such that S + I is positive definite, got a pivot of {pivots[bad[0]]} at row {bad[0]}"
            )
        row = lowest_of_largest(pivots, left, slack)
        indices[pick], scores[pick] = row, np.log(pivots[row])
        left[row] = False
        pivots -= explained(row, pivots[row])
    return Selection(indices, scores)
