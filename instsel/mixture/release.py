"""The mixture of Beyond IID's released code, for comparison: only the sign of each change counts."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from instsel.arrays import largest_remainder

RATE = 1e-4
BETAS = (0.9, 0.999)
EPSILON = 1e-8
STEPS = 2000
FLOOR = 1e-5


def release_counts(
    importance: ArrayLike, gamma: ArrayLike, rows: ArrayLike, supply: ArrayLike, *, share: float = 0.03, least: int = 5
) -> NDArray[np.int64]:
    """Compute the rows of each category after the release's exchange.

    Adam climbs the objective from `importance` until a weight is used up; categories that grew receive equal parts of
    the fraction `share` of the rows, categories that shrank give equal parts. In the release the importance drifts
    along with the weights, as both share memory; here it is constant.

    Args:
        importance: (K,), sums to 1.
        gamma: (K, K), gamma[added, evaluated].
        rows: (K,), rows of each category in the baseline.
        supply: (K,), further rows of each category that the pool has.
        share: fraction of all rows to exchange.
        least: rows that a category keeps, if it has them.

    Returns:
        int64 (K,). Sums to that of `rows`: as much is given as is taken, less than `share` where shrinking categories
        cannot give as much or growing ones cannot take it.

    Raises:
        ValueError: shapes differ.
    """
    weights, effect = np.asarray(importance, dtype=np.float64), np.asarray(gamma, dtype=np.float64)
    had, more = np.asarray(rows, dtype=np.int64), np.asarray(supply, dtype=np.int64)
    if effect.shape != (len(weights), len(weights)) or had.shape != weights.shape or more.shape != weights.shape:
        raise ValueError(f"importance has shape {weights.shape}; rows and supply must too, gamma its square")
    climbed = _climb(weights, effect @ weights)
    grew, shrank = climbed > weights, climbed < weights
    moved = int(had.sum() * share)
    if not grew.any() or not shrank.any():
        return had.copy()
    # What is given is what is taken: the release gives whole parts of `share` and takes all of it, so that it ends with
    # more rows than it began with where the parts do not come out even.
    spare = np.where(shrank, np.maximum(had - least, 0), 0)
    capacity = np.where(grew, np.maximum(more - 1, 0), 0)
    exchanged = min(moved, int(capacity.sum()), int(spare.sum()))
    given = largest_remainder(shrank.astype(np.float64), exchanged, spare)
    taken = largest_remainder(grew.astype(np.float64), exchanged, capacity)
    counts: NDArray[np.int64] = had - given + taken
    return counts


def _climb(start: NDArray[np.float64], worth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Maximise the mean worth of the weights with Adam, until the smallest weight is used up."""
    weights = start.copy()
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, STEPS + 1):
        total = weights.sum()
        slope = -(worth - worth @ weights / total) / total
        first = BETAS[0] * first + (1 - BETAS[0]) * slope
        second = BETAS[1] * second + (1 - BETAS[1]) * slope**2
        direction = (first / (1 - BETAS[0] ** step)) / (np.sqrt(second / (1 - BETAS[1] ** step)) + EPSILON)
        weights = weights - RATE * direction
        if weights.min() < FLOOR:
            break
    climbed: NDArray[np.float64] = weights * start.sum() / weights.sum()
    return climbed
