"""Graph cut by greedy: rows that are like the whole pool and unlike each other."""

from collections.abc import Callable

import numpy as np

from instsel import checks
from instsel.blocks import row_blocks
from instsel.selection.result import Selection
from instsel.selection.similarity import (
    TIE,
    check_lam,
    check_metric,
    cosine_units,
    lowest_of_largest,
    similarity_matrix,
)


def graph_cut(x: np.ndarray, budget: int, *, lam: float = 0.4, metric: str = "cosine") -> Selection:
    """Pick rows greedily for sum_{i in pool, j picked} s_ij - lam sum_{i, j picked} s_ij.

    The gain of row v is c_v - 2 lam sum_{u picked} s_uv - lam s_vv, where c_v is the sum of s_iv over the pool, v
    itself included (arXiv 2403.08370, Section 3, with submodlib's gains). Gains may be negative; rows are picked up to
    the budget all the same. No matrix of pairs is made of embeddings: c = U (U^T 1) for unit rows U, and a pick takes
    one product U u. Memory is about 8 n d bytes, time O(k n d).

    Gains within 1e-12 of the largest sum over a row's similarities (of n for cosines) are ties, which go to the lowest
    row: rounding is far below that. submodlib takes the highest row.

    Args:
        x: (n, d) embeddings, or (n, n) similarities for metric "precomputed"; any real dtype.
        budget: rows wanted, k; above n gives all n.
        lam: weight of the redundancy, at least 0; 0.4 in the paper.
        metric: "cosine" or "precomputed".

    Returns:
        Selection whose scores are the gains; no `called_by`.

    Raises:
        ValueError: wrong rank, no columns, NaN or infinity, a matrix that is not square or not symmetric, another
            metric, a negative budget, lam negative or not finite.
    """
    check_metric(metric)
    check_lam(lam)
    if metric == "cosine":
        units = cosine_units(x)
        return from_units(units, checks.budget(budget, len(units)), lam=lam)
    matrix = similarity_matrix(x)
    sums, sizes = np.empty(len(matrix)), np.empty(len(matrix))
    for block in row_blocks(len(matrix), len(matrix) * sums.itemsize):
        part = matrix[block].astype(np.float64)
        sums[block] = part.sum(axis=1)
        sizes[block] = np.abs(part, out=part).sum(axis=1)
    own = np.asarray(matrix.diagonal(), dtype=np.float64)
    slack = TIE * sizes.max(initial=0)
    return _greedy(sums, own, lambda row: matrix[row], checks.budget(budget, len(matrix)), lam, slack)


def from_units(units: np.ndarray, count: int, *, lam: float) -> Selection:
    """Pick `count` rows, at most n, of unit rows float64 (n, d), as `similarity.unit_rows` makes them."""
    own = np.where(units.any(axis=1), 1.0, 0.0)
    sums = units @ units.sum(axis=0)
    return _greedy(sums, own, lambda row: units @ units[row], count, lam, TIE * len(units))


def _greedy(
    sums: np.ndarray, own: np.ndarray, similarities: Callable[[int], np.ndarray], count: int, lam: float, slack: float
) -> Selection:
    """Walk with the similarities summed over the pool (n,), those of rows with themselves (n,), and those of a row."""
    base = sums - lam * own
    redundancy = np.zeros(len(sums))
    left = np.ones(len(sums), dtype=bool)
    indices, scores = np.empty(count, np.int64), np.empty(count)
    for pick in range(count):
        gains = base - 2 * lam * redundancy
        row = lowest_of_largest(gains, left, slack)
        indices[pick], scores[pick] = row, gains[row]
        left[row] = False
        redundancy += similarities(row)
    return Selection(indices, scores)
