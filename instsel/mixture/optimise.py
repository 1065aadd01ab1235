"""Mixtures of categories: the linear program of Beyond IID, and weights as counts of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from instsel.arrays import largest_remainder

ROUNDING = 1e-9
# Smaller than any measured difference, larger than the tolerance of the solver.
TIE = 1e-8
PRECISE = {"dual_feasibility_tolerance": 1e-10, "primal_feasibility_tolerance": 1e-10}
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class MixtureSolution:
    """A mixture.

    Attributes:
        weights: float64 (K,), proportion of every category; sums to 1.
        objective: importance^T gamma w at the weights: the worth of a row, in examples.
        start_objective: the same for the mixture it started from.
        duals: by constraint: "sum" and "max_shift" are numbers, "lower" and "upper" float64 (K,), one per category. A
            dual is the gain in the objective if the constraint were relaxed by one unit ("sum": if the weights summed
            to one unit more); 0 where a constraint is not active.
        worth: float64 (K,), coefficient of each category in the objective: the worth of one of its rows.
    """

    weights: Vector
    objective: float
    start_objective: float
    duals: Mapping[str, float | Vector]
    worth: Vector


def linear(  # noqa: PLR0913
    importance: ArrayLike,
    gamma: ArrayLike,
    *,
    max_shift: float = 0.03,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    start: ArrayLike | None = None,
    error: ArrayLike | None = None,
    caution: float = 0.0,
    names: Sequence[str] | None = None,
) -> MixtureSolution:
    """Find the mixture of the largest worth: maximise sum_ij w_i gamma[i, j] importance_j.

    Beyond IID states the objective; its release climbs it with Adam until the first weight is zero and keeps only the
    signs (see `release.release_counts`). Here it is solved as a linear program within a trust region: at most
    `max_shift` of the rows are exchanged. Among categories of equal worth, the first is preferred.

    Args:
        importance: (K,), weight of the performance on each category; at least 0, sums to 1.
        gamma: (K, K), gamma[added, evaluated], the transpose of the release's matrix.
        max_shift: upper bound of half the summed absolute change from `start`; 1 is no bound.
        lower: (K,), smallest weight of each category; default 0.
        upper: (K,), largest weight of each category, for instance its supply in the pool; default 1.
        start: (K,), the initial mixture; default `importance`, as in the paper.
        error: (K, K), standard errors of gamma, for `caution`.
        caution: number of standard errors to subtract from gamma (the worst case of every entry).
        names: of the categories, for error messages; default their indices.

    Returns:
        The solution.

    Raises:
        ValueError: an array has a wrong shape or holds NaN, importance or start do not sum to 1, an entry is negative,
            or the constraints are infeasible; the message names the categories.
    """
    target = _distribution("importance", importance)
    size = len(target)
    labels = [str(index) for index in range(size)] if names is None else list(names)
    worth = _worth(target, gamma, error, caution, labels)
    initial = target if start is None else _distribution("start", start)
    low = np.zeros(size) if lower is None else np.asarray(lower, dtype=np.float64)
    high = np.ones(size) if upper is None else np.asarray(upper, dtype=np.float64)
    for name, bound in (("start", initial), ("lower", low), ("upper", high)):
        if bound.shape != (size,) or not np.isfinite(bound).all():
            raise ValueError(f"{name} has shape {bound.shape}; expected ({size},), finite, one entry per category")
    _check_bounds(low, high, initial, max_shift, labels)
    up, down = cp.Variable(size, nonneg=True), cp.Variable(size, nonneg=True)
    # cvxpy's operators are not typed.
    weights: Any = initial + up - down
    constraints = {
        "sum": weights.sum() == 1,
        "max_shift": (up + down).sum() / 2 <= max(max_shift, 0),
        "lower": weights >= low,
        "upper": weights <= high,
    }
    # A tiny preference for the first, so that ties have a unique solution.
    tie = TIE * max(np.abs(worth).max(), ROUNDING) * np.arange(size)
    problem: Any = cp.Problem(cp.Maximize((worth - tie) @ weights), list(constraints.values()))
    problem.solve(solver=cp.HIGHS, highs_options=PRECISE)
    if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise ValueError(f"the mixture has no solution ({problem.status}); loosen max_shift, lower or upper")
    optimum = np.clip(np.asarray(weights.value, dtype=np.float64), 0, 1)
    optimum /= optimum.sum()
    duals = {name: np.asarray(constraint.dual_value, dtype=np.float64) for name, constraint in constraints.items()}
    by_constraint: dict[str, float | Vector] = {
        "sum": float(duals["sum"]),
        "max_shift": float(duals["max_shift"]),
        "lower": duals["lower"],
        "upper": duals["upper"],
    }
    return MixtureSolution(optimum, float(worth @ optimum), float(worth @ initial), by_constraint, worth)


def counts(weights: ArrayLike, total: int, *, capacity: ArrayLike | None = None) -> NDArray[np.int64]:
    """Turn weights into numbers of rows by largest remainder; what a full category cannot take goes to the others.

    Args:
        weights: (K,), at least 0, not all 0.
        total: number of rows.
        capacity: (K,), maximum rows of each category; default no bound.

    Returns:
        int64 (K,), sums to `total`; of equal remainders the first is served first.

    Raises:
        ValueError: weights that are negative, not finite or all 0, or capacities that sum to less than `total`.
    """
    proportions = np.asarray(weights, dtype=np.float64)
    if proportions.ndim != 1 or not (np.isfinite(proportions) & (proportions >= 0)).all() or proportions.sum() <= 0:
        raise ValueError("weights must be one finite number of at least 0 per category, and not all 0")
    limit = np.full(len(proportions), total) if capacity is None else np.asarray(capacity, dtype=np.int64)
    return largest_remainder(proportions, total, limit)


def _distribution(name: str, values: ArrayLike) -> Vector:
    entries = np.asarray(values, dtype=np.float64)
    if entries.ndim != 1 or not len(entries) or not np.isfinite(entries).all() or (entries < 0).any():
        raise ValueError(f"{name} has shape {entries.shape}; expected one finite number of at least 0 per category")
    if abs(entries.sum() - 1) > 1e-6:
        raise ValueError(f"{name} sums to {entries.sum():.6g}; it has to sum to 1")
    distribution: Vector = entries / entries.sum()
    return distribution


def _worth(
    importance: Vector, gamma: ArrayLike, error: ArrayLike | None, caution: float, labels: Sequence[str]
) -> Vector:
    """Compute the coefficients of the objective, float64 (K,)."""
    size = len(importance)
    effect = np.asarray(gamma, dtype=np.float64)
    if effect.shape != (size, size):
        raise ValueError(f"gamma has shape {effect.shape}; expected ({size}, {size}), as importance has {size} entries")
    if caution < 0:
        raise ValueError(f"caution is {caution}; it has to be at least 0")
    if caution > 0:
        spread = np.full_like(effect, np.nan) if error is None else np.asarray(error, dtype=np.float64)
        if spread.shape != effect.shape:
            raise ValueError(f"caution needs the standard errors of gamma, of shape {effect.shape}")
        if np.isnan(spread[:, importance > 0]).any():
            raise ValueError("caution needs a standard error of every entry of gamma; some are unknown")
        effect = effect - caution * spread
    counted = effect[:, importance > 0]
    if not np.isfinite(counted).all():
        missing = (importance > 0) & ~np.isfinite(effect).all(axis=0)
        columns = [labels[index] for index in np.flatnonzero(missing).tolist()]
        raise ValueError(
            f"gamma is unknown for {', '.join(columns)}, which have importance; give them importance 0, "
            "measure them on more rows, or count unknown effects as zero"
        )
    worth: Vector = counted @ importance[importance > 0]
    return worth


def _check_bounds(low: Vector, high: Vector, initial: Vector, max_shift: float, labels: Sequence[str]) -> None:
    """Raise ValueError with the names of the categories whose constraints contradict each other."""
    crossed = [labels[index] for index in np.flatnonzero(low > high + ROUNDING).tolist()]
    if crossed:
        raise ValueError(f"lower is above upper for {', '.join(crossed)}; a floor cannot be above the supply")
    if low.sum() > 1 + ROUNDING:
        raised = [labels[index] for index in np.flatnonzero(low > 0).tolist()]
        raise ValueError(f"the lower bounds of {', '.join(raised)} sum to {low.sum():.4g}, above 1; lower some")
    if high.sum() < 1 - ROUNDING:
        bound = [labels[index] for index in np.flatnonzero(high < 1).tolist()]
        raise ValueError(f"the upper bounds of {', '.join(bound)} sum to {high.sum():.4g}, below 1; raise some")
    rise, fall = np.maximum(low - initial, 0), np.maximum(initial - high, 0)
    needed = max(rise.sum(), fall.sum())
    if needed > max_shift + ROUNDING:
        moved = rise if rise.sum() >= fall.sum() else fall
        far = [labels[index] for index in np.flatnonzero(moved > ROUNDING).tolist()]
        kind = "lower" if moved is rise else "upper"
        raise ValueError(
            f"the {kind} bounds of {', '.join(far)} need a shift of {needed:.4g}, and max_shift is {max_shift:.4g}; "
            "raise it or loosen the bounds"
        )
