"""How well two estimates of gamma agree on the order of its entries."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation of the entries beside the diagonal that both estimates know.

    Attributes:
        correlation: over all of them; NaN where there are fewer than three or one estimate has them all alike.
        low, high: percentile interval, over bootstrap draws of the categories that are added and of those evaluated.
        within: mean over evaluated categories of the correlation within their column, which no scale of a column moves.
        entries: entries compared.
    """

    correlation: float
    low: float
    high: float
    within: float
    entries: int


def agreement(
    one: ArrayLike, other: ArrayLike, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Agreement:
    """Compare two estimates of gamma.

    Entries of one row or column depend on each other, so whole rows and whole columns are drawn anew, each
    independently, for the interval.

    Args:
        one: (K, K), gamma[added, evaluated]; NaN where unknown.
        other: (K, K).
        samples: bootstrap draws.
        confidence: of the interval.
        seed: of the draws.

    Raises:
        ValueError: the shapes differ.
    """
    left, right = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 2 or left.shape[0] != left.shape[1]:
        raise ValueError(f"estimates have shapes {left.shape} and {right.shape}; expected (K, K) of both")
    size = len(left)
    usable = np.isfinite(left) & np.isfinite(right) & ~np.eye(size, dtype=bool)
    columns = [_correlation(left[usable[:, j], j], right[usable[:, j], j]) for j in range(size)]
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(samples):
        grid = np.ix_(random.integers(size, size=size), random.integers(size, size=size))
        kept = usable[grid]
        drawn.append(_correlation(left[grid][kept], right[grid][kept]))
    known = np.array([value for value in drawn if np.isfinite(value)])
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2]) if len(known) else (np.nan, np.nan)
    inside = [value for value in columns if np.isfinite(value)]
    return Agreement(
        _correlation(left[usable], right[usable]),
        float(low),
        float(high),
        float(np.mean(inside)) if inside else float("nan"),
        int(usable.sum()),
    )


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(stats.spearmanr(one, other).statistic)
