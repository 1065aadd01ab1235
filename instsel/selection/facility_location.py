"""Facility location by greedy: the rows that leave no row of the pool without something similar to it.

Cosines: a pick changes gains only through the rows that it serves better than any pick before, which soon are few. What
they take off every gain is computed in batches, and no gain is ever computed anew.

Given matrices, and random draws: lazy greedy. Gains never grow as rows are picked, so an old gain bounds the new one,
and only the rows whose old gains are the largest are looked at again, in batches.
"""

import math
from dataclasses import dataclass

import numpy as np

from instsel import checks
from instsel.selection.kernels import ComputedCosines, GivenSimilarities, HeldCosines, Kernel
from instsel.selection.result import Selection
from instsel.selection.similarity import check_metric, cosine_units, similarity_matrix

_KERNEL_BYTES = 2**30
_FIRST_BATCH = 16


def facility_location(
    x: np.ndarray, budget: int, *, metric: str = "cosine", kernel_bytes: int = _KERNEL_BYTES,
    stochastic: float | None = None, seed: int = 0,
) -> Selection:  # fmt: skip
    """Pick rows greedily for the sum over all rows i of max_{j picked} s_ij, equal pick for pick to plain greedy.

    The best similarity of a row so far starts at 0: every gain, the first too, is sum_i max(0, s_iv - best_i), and
    negative similarities count as 0. These are submodlib's gains, which the release of SMART uses (arXiv 2403.08370,
    Section 3); of equal gains submodlib takes the highest row, this the lowest. Cosines are rounded to a multiple of
    2^-24, what float32 can tell apart near 1; a given matrix is used in float64.

    Args:
        x: (n, d) embeddings, or (n, n) similarities for metric "precomputed"; any real dtype.
        budget: rows wanted, k; above n gives all n.
        metric: "cosine" or "precomputed".
        kernel_bytes: the cosines of all pairs are held if their 4 n^2 bytes are no more than this (16,384 rows). If
            not they are computed when they are needed, some six times each for 1,000 picks, and memory stays near
            8 n d bytes. The picks are the same.
        stochastic: epsilon, between 0 and 1, of stochastic greedy (Mirzasoleiman et al., 2015, arXiv 1409.7938): each
            pick is the best of n/k ln(1/epsilon) rows drawn at random, which in expectation gives at least
            1 - 1/e - epsilon of the optimum. That is at most n ln(1/epsilon) gains in all. None is exact greedy.
        seed: of those draws, any whole number from 0; without `stochastic` there are none.

    Returns:
        Selection whose scores are the gains; no `called_by`. Ties go to the lowest row.

    Raises:
        ValueError: wrong rank, no columns, NaN or infinity, a matrix that is not square or not symmetric, another
            metric, a negative budget, seed or kernel_bytes, epsilon outside (0, 1).
    """
    check_metric(metric)
    most = checks.whole_number("kernel_bytes", kernel_bytes)
    draws = None if stochastic is None else _Draws(stochastic, checks.whole_number("seed", seed))
    if metric == "cosine":
        units = cosine_units(x)
        return from_units(units, checks.budget(budget, len(units)), kernel_bytes=most, draws=draws)
    matrix = similarity_matrix(x)
    return _lazy(GivenSimilarities(matrix), checks.budget(budget, len(matrix)), draws)


@dataclass(frozen=True)
class _Draws:
    """The draws of stochastic greedy."""

    epsilon: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1:
            raise ValueError(f"stochastic must be an epsilon between 0 and 1, got {self.epsilon}")


def from_units(
    units: np.ndarray, count: int, *, kernel_bytes: int = _KERNEL_BYTES, draws: _Draws | None = None
) -> Selection:
    """Pick `count` rows, at most n, of unit rows float64 (n, d), as `similarity.unit_rows` makes them."""
    if count == 0:
        return Selection(np.empty(0, np.int64), np.empty(0))
    cosines = HeldCosines(units) if HeldCosines.size(len(units)) <= kernel_bytes else ComputedCosines(units)
    return _exact(cosines, count) if draws is None else _lazy(cosines, count, draws)


def _exact(cosines: ComputedCosines, count: int) -> Selection:
    """Keep all gains as they are: sums of rounded cosines are exact, so that differences may be taken off them."""
    indices, scores = np.empty(count, np.int64), np.empty(count)
    gains, best = cosines.first_gains(), np.zeros(cosines.rows)
    for pick in range(count):
        row = int(gains.argmax())
        indices[pick], scores[pick] = row, gains[row]
        gains[row] = -np.inf
        similarities = cosines.row(row)
        risen = np.flatnonzero(similarities > best)
        after = similarities[risen].astype(np.float64)
        gains -= cosines.losses(risen, best[risen], after)
        best[risen] = after
    return Selection(indices, scores)


def _lazy(kernel: Kernel, count: int, draws: _Draws | None) -> Selection:
    walk = _LazyWalk(kernel)
    indices, scores = np.empty(count, np.int64), np.empty(count)
    remaining = np.arange(kernel.rows)
    words = np.random.PCG64(draws.seed if draws else 0)
    size = math.ceil(kernel.rows / count * math.log(1 / draws.epsilon)) if draws and count else kernel.rows
    for pick in range(count):
        candidates = remaining
        if size < remaining.size:
            keys = words.random_raw(remaining.size)
            candidates = np.sort(remaining[np.argpartition(keys, size)[:size]])
        row, scores[pick] = walk.pick(candidates)
        indices[pick] = row
        remaining = np.delete(remaining, np.searchsorted(remaining, row))
    return Selection(indices, scores)


class _LazyWalk:
    """What is known of the gains, and the best similarities so far."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        # Each row's gain when it was last evaluated: never below what it is now, in floating point either.
        self.bounds = np.full(kernel.rows, np.inf)
        self.best = np.zeros(kernel.rows)

    def pick(self, candidates: np.ndarray) -> tuple[int, float]:
        """Take the candidate with the largest gain, the lowest of equals, and return it with its gain.

        Args:
            candidates: int64, at least one, in rising order.
        """
        row, gain = self.kernel.rows, -np.inf
        waiting, batch = candidates, _FIRST_BATCH
        while waiting.size:
            chosen = _largest(self.bounds[waiting], batch)
            rows = waiting[chosen]
            gains = self.bounds[rows] = self.kernel.gains(rows, self.best)
            top = float(gains.max())
            first = int(rows[gains == top].min())
            if top > gain or (top == gain and first < row):
                row, gain = first, top
            waiting = np.delete(waiting, chosen)
            bounds = self.bounds[waiting]
            waiting = waiting[(bounds > gain) | ((bounds == gain) & (waiting < row))]
            batch *= 2
        np.maximum(self.best, self.kernel.row(row), out=self.best)
        return row, gain


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the `count` largest values, of equal ones the first."""
    if values.size <= count:
        return np.arange(values.size)
    least = np.partition(values, values.size - count)[values.size - count]
    places = np.flatnonzero(values >= least)
    return places[np.argsort(-values[places], kind="stable")[:count]]
