"""Three submodular functions over embeddings, each with its greedy walk: coverage, graph cut, volume."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field

from instsel import arrays
from instsel.arrays import row_blocks
from instsel.selection.base import Method, Requires
from instsel.selection.cost import FLOAT32, FLOAT64, Shape
from instsel.selection.kernels import (
    TIE,
    ComputedCosines,
    GivenSimilarities,
    HeldCosines,
    Kernel,
    check_lam,
    check_metric,
    cosine_units,
    lowest_of_largest,
    similarity_matrix,
)
from instsel.selection.method_data import EmbeddingData
from instsel.selection.picked import Selection

KERNEL_BYTES = 2**30
"""Of the cosines of all pairs, where facility location holds them."""
_FIRST_BATCH = 16


def facility_location(
    x: np.ndarray, budget: int, *, metric: str = "cosine", kernel_bytes: int = KERNEL_BYTES,
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
        seed: of that sampling, any whole number from 0; without `stochastic` there is none.

    Returns:
        Selection whose scores are the gains; no `driven_by`. Ties go to the lowest row.

    Raises:
        ValueError: wrong rank, no columns, NaN or infinity, a matrix that is not square or not symmetric, another
            metric, a negative budget, seed or kernel_bytes, epsilon outside (0, 1).
    """
    check_metric(metric)
    most = arrays.whole_number("kernel_bytes", kernel_bytes)
    sampling = None if stochastic is None else _Sampling(stochastic, arrays.whole_number("seed", seed))
    if metric == "cosine":
        units = cosine_units(x)
        return facility_location_of_units(
            units, arrays.budget(budget, len(units)), kernel_bytes=most, sampling=sampling
        )
    matrix = similarity_matrix(x)
    return _lazy(GivenSimilarities(matrix), arrays.budget(budget, len(matrix)), sampling)


@dataclass(frozen=True)
class _Sampling:
    """The random candidates of stochastic greedy."""

    epsilon: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1:
            raise ValueError(f"stochastic must be an epsilon between 0 and 1, got {self.epsilon}")


def facility_location_of_units(
    units: np.ndarray, count: int, *, kernel_bytes: int = KERNEL_BYTES, sampling: _Sampling | None = None
) -> Selection:
    """Pick `count` rows, at most n, of unit rows float64 (n, d), as `similarity.unit_rows` makes them."""
    if count == 0:
        return Selection(np.empty(0, np.int64), np.empty(0))
    cosines = HeldCosines(units) if HeldCosines.size(len(units)) <= kernel_bytes else ComputedCosines(units)
    return _exact(cosines, count) if sampling is None else _lazy(cosines, count, sampling)


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


def _lazy(kernel: Kernel, count: int, sampling: _Sampling | None) -> Selection:
    walk = _LazyWalk(kernel)
    indices, scores = np.empty(count, np.int64), np.empty(count)
    remaining = np.arange(kernel.rows)
    words = np.random.PCG64(sampling.seed if sampling else 0)
    size = math.ceil(kernel.rows / count * math.log(1 / sampling.epsilon)) if sampling and count else kernel.rows
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
    """Return the positions of the `count` largest values, of equal ones the first."""
    if values.size <= count:
        return np.arange(values.size)
    least = np.partition(values, values.size - count)[values.size - count]
    positions = np.flatnonzero(values >= least)
    return positions[np.argsort(-values[positions], kind="stable")[:count]]


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
        Selection whose scores are the gains; no `driven_by`.

    Raises:
        ValueError: wrong rank, no columns, NaN or infinity, a matrix that is not square or not symmetric, another
            metric, a negative budget, lam negative or not finite.
    """
    check_metric(metric)
    check_lam(lam)
    if metric == "cosine":
        units = cosine_units(x)
        return graph_cut_of_units(units, arrays.budget(budget, len(units)), lam=lam)
    matrix = similarity_matrix(x)
    sums, sizes = np.empty(len(matrix)), np.empty(len(matrix))
    for block in row_blocks(len(matrix), len(matrix) * sums.itemsize):
        part = matrix[block].astype(np.float64)
        sums[block] = part.sum(axis=1)
        sizes[block] = np.abs(part, out=part).sum(axis=1)
    diagonal = np.asarray(matrix.diagonal(), dtype=np.float64)
    slack = TIE * sizes.max(initial=0)
    return _graph_cut_greedy(sums, diagonal, lambda row: matrix[row], arrays.budget(budget, len(matrix)), lam, slack)


def graph_cut_of_units(units: np.ndarray, count: int, *, lam: float) -> Selection:
    """Pick `count` rows, at most n, of unit rows float64 (n, d), as `similarity.unit_rows` makes them."""
    diagonal = np.where(units.any(axis=1), 1.0, 0.0)
    sums = units @ units.sum(axis=0)
    return _graph_cut_greedy(sums, diagonal, lambda row: units @ units[row], count, lam, TIE * len(units))


def _graph_cut_greedy(
    sums: np.ndarray,
    diagonal: np.ndarray,
    similarities: Callable[[int], np.ndarray],
    count: int,
    lam: float,
    slack: float,
) -> Selection:
    """Walk with the similarities summed over the pool (n,), those of rows with themselves (n,), and those of a row."""
    base = sums - lam * diagonal
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
        Selection whose scores are the gains; no `driven_by`.

    Raises:
        ValueError: wrong rank, no columns, NaN or infinity, a matrix that is not square or not symmetric, or that has
            no log-determinant with the next row (S + I is not positive definite), another metric, a negative budget.
    """
    check_metric(metric)
    if metric == "cosine":
        units = cosine_units(x)
        return log_det_of_units(units, arrays.budget(budget, len(units)))
    matrix = similarity_matrix(x)
    count = arrays.budget(budget, len(matrix))
    return _log_det_greedy(np.asarray(matrix.diagonal(), dtype=np.float64), _Cholesky(matrix, count), count)


def log_det_of_units(units: np.ndarray, count: int) -> Selection:
    """Pick `count` rows, at most n, of unit rows float64 (n, d), as `similarity.unit_rows` makes them."""
    return _log_det_greedy(np.where(units.any(axis=1), 1.0, 0.0), _ShermanMorrison(units, count), count)


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
        return np.asarray(np.square(self.units @ direction))


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
        return np.asarray(np.square(column))


def _log_det_greedy(diagonal: np.ndarray, explained: _Explained, count: int) -> Selection:
    """Walk with the similarities of rows with themselves (n,); the gain of a row is the logarithm of its pivot."""
    pivots = 1 + diagonal
    slack = TIE * pivots.max(initial=0)
    left = np.ones(len(diagonal), dtype=bool)
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


class _Submodular(Method):
    """What the three functions share: they read prompt embeddings, and nothing in particular drives a pick."""

    requires: ClassVar[Requires] = "embeddings"
    reason: ClassVar[str]

    def reasons(self, data: EmbeddingData, selection: Selection, seed: int) -> list[str]:
        return [self.reason] * len(selection)

    def working_memory(self, shape: Shape) -> int:
        return FLOAT64 * shape.rows * shape.embedding


class FacilityLocation(_Submodular):
    """Coverage."""

    reason = "gain in coverage"
    array_function = staticmethod(facility_location)

    method: Literal["facility_location"] = Field(description="rows whose prompts stand for all prompts of the pool")
    stochastic: float | None = Field(
        None, gt=0, lt=1, description="epsilon of stochastic greedy, for large budgets of large pools; default exact"
    )
    seed: int = Field(0, ge=0, description="seed of `stochastic`")

    def select(self, data: EmbeddingData, budget: int, seed: int) -> Selection:
        return facility_location(data.values, budget, stochastic=self.stochastic, seed=self.seed)

    def work(self, shape: Shape) -> float:
        # The t-th of k picks serves about n / t rows better than any before, and each of them is compared with all.
        return shape.rows**2 * (1 + math.log(max(1, shape.chosen)))

    def working_memory(self, shape: Shape) -> int:
        kernel = FLOAT32 * shape.rows**2
        return super().working_memory(shape) + (kernel if kernel <= KERNEL_BYTES else 0)

    def timed_select(self, data: EmbeddingData, budget: int, shape: Shape) -> Selection:
        holds_kernel = FLOAT32 * shape.rows**2 <= KERNEL_BYTES
        return facility_location(data.values, budget, kernel_bytes=KERNEL_BYTES if holds_kernel else 0)


class GraphCut(_Submodular):
    """Likeness to the pool without repeats."""

    scans_pool = True
    reason = "gain in likeness to the pool, less likeness to the choice"
    array_function = staticmethod(graph_cut)

    method: Literal["graph_cut"] = Field(description="rows like the pool's prompts and unlike each other")
    lam: float = Field(0.4, ge=0, description="weight of the redundancy")

    def select(self, data: EmbeddingData, budget: int, seed: int) -> Selection:
        return graph_cut(data.values, budget, lam=self.lam)


class LogDet(_Submodular):
    """Volume."""

    scans_pool = True
    reason = "gain in volume"
    array_function = staticmethod(log_det)

    method: Literal["log_det"] = Field(description="rows whose prompts differ most from each other")

    def select(self, data: EmbeddingData, budget: int, seed: int) -> Selection:
        return log_det(data.values, budget)

    def working_memory(self, shape: Shape) -> int:
        return super().working_memory(shape) + FLOAT64 * shape.embedding**2


SubmodularFunction = Literal["facility_location", "graph_cut", "log_det"]


def submodular_method(name: SubmodularFunction, lam: float) -> Method:
    """Return the method that picks by one of the functions.

    Args:
        name: of the function.
        lam: weight of the redundancy, of graph cut.
    """
    if name == "graph_cut":
        return GraphCut(method=name, lam=lam)
    return FacilityLocation(method=name) if name == "facility_location" else LogDet(method=name)
