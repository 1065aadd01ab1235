"""The linear program of the mixture, and its shares as counts of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
from numpy.typing import ArrayLike, NDArray


def apportion(shares: NDArray[np.float64], total: int, room: NDArray[np.int64]) -> NDArray[np.int64]:
    """Split `total` by largest remainder, none above its room; what is over goes to the others by their shares.

    Args:
        shares: float64 (K,), at least 0, not all 0.
        total: what is split, at least 0.
        room: int64 (K,), the most that each may get.

    Returns:
        int64 (K,), sums to `total`; of equal remainders the first is served first. Places of share 0 get something only
        when all others are full.

    Raises:
        ValueError: there is not room for `total`, or it is negative.
    """
    if total < 0 or room.shape != shares.shape or (room < 0).any():
        raise ValueError(f"total is {total} and room {room.tolist()}; expected numbers of at least 0, one a share")
    if room.sum() < total:
        raise ValueError(f"there are {room.sum()} rows in all, fewer than the {total} wanted; lower the budget")
    found = np.zeros(len(shares), dtype=np.int64)
    open_places = room > 0
    while (left := total - int(found.sum())) > 0:
        wanted = np.where(open_places, shares, 0.0)
        if wanted.sum() <= 0:
            wanted = open_places.astype(np.float64)
        # Rounded: 0.3 * 10 is a hair below 3 in floats.
        quotas = np.round(left * wanted / wanted.sum(), 9)
        given = np.floor(quotas).astype(np.int64)
        order = np.argsort(-(quotas - given), kind="stable")
        given[order[: left - int(given.sum())]] += 1
        found += np.minimum(given, room - found)
        open_places = found < room
    return found


ROUNDING = 1e-9
# Smaller than any difference that is measured, larger than what the solver takes for none.
TIE = 1e-8
PRECISE = {"dual_feasibility_tolerance": 1e-10, "primal_feasibility_tolerance": 1e-10}
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Solution:
    """A mixture.

    Attributes:
        weights: float64 (K,), share of every category; sums to 1.
        objective: importance^T gamma w at the weights, in examples' worth a row.
        start_objective: the same of the mixture it started from.
        duals: by constraint: "sum" and "max_shift" a number each, "lower" and "upper" float64 (K,), one a category.
            Each is what the objective would gain if the constraint were one unit looser ("sum": if the shares summed to
            one more unit); 0 where a constraint does not hold the mixture back.
        worth: float64 (K,), objective's coefficient of each category: what one of its rows is worth over all.
    """

    weights: Vector
    objective: float
    start_objective: float
    duals: Mapping[str, float | Vector]
    worth: Vector


def solve(
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
) -> Solution:
    """Find the mixture that is worth most: maximise sum_ij w_i gamma[i, j] importance_j.

    Beyond IID states the objective; its release climbs it with Adam until the first share is zero and keeps the signs
    (see `release_counts`). Here it is the linear programme it looks like, bounded by a trust region: at most
    `max_shift` of the rows are exchanged. Of categories that are worth the same, the first is preferred.

    Args:
        importance: (K,), how much being good at each category counts; at least 0, sums to 1.
        gamma: (K, K), gamma[added, evaluated]. The release's matrix is the transpose of this.
        max_shift: half the summed difference of the shares to `start`, at most; 1 leaves them free.
        lower: (K,), least share of each category; default 0.
        upper: (K,), largest share of each category, such as what the pool has of it; default 1.
        start: (K,), the mixture that is changed; default `importance`, as in the paper.
        error: (K, K), standard errors of gamma, for `caution`.
        caution: gamma counts as gamma minus so many standard errors (in each entry its worst case).
        names: of the categories, for errors; default their numbers.

    Returns:
        The solution.

    Raises:
        ValueError: an array has a wrong shape or holds NaN, importance or start do not sum to 1, an entry is negative,
            or the constraints contradict each other; the message names the categories.
    """
    shares = _distribution("importance", importance)
    size = len(shares)
    labels = [str(place) for place in range(size)] if names is None else list(names)
    worth = _worth(shares, gamma, error, caution, labels)
    start_shares = shares if start is None else _distribution("start", start)
    low = np.zeros(size) if lower is None else np.asarray(lower, dtype=np.float64)
    high = np.ones(size) if upper is None else np.asarray(upper, dtype=np.float64)
    for name, bound in (("start", start_shares), ("lower", low), ("upper", high)):
        if bound.shape != (size,) or not np.isfinite(bound).all():
            raise ValueError(f"{name} has shape {bound.shape}; expected ({size},), finite, one entry a category")
    _check_bounds(low, high, start_shares, max_shift, labels)
    up, down = cp.Variable(size, nonneg=True), cp.Variable(size, nonneg=True)
    weights = start_shares + up - down
    constraints = {
        "sum": cp.sum(weights) == 1,
        "max_shift": cp.sum(up + down) / 2 <= max(max_shift, 0),
        "lower": weights >= low,
        "upper": weights <= high,
    }
    # A hair's breadth in favour of the first, so that ties have one answer.
    tie = TIE * max(np.abs(worth).max(), ROUNDING) * np.arange(size)
    programme = cp.Problem(cp.Maximize((worth - tie) @ weights), list(constraints.values()))
    programme.solve(solver=cp.HIGHS, highs_options=PRECISE)
    if programme.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise ValueError(f"the mixture has no solution ({programme.status}); loosen max_shift, lower or upper")
    found = np.clip(np.asarray(weights.value, dtype=np.float64), 0, 1)
    found /= found.sum()
    duals = {name: np.asarray(constraint.dual_value, dtype=np.float64) for name, constraint in constraints.items()}
    told: dict[str, float | Vector] = {
        "sum": float(duals["sum"]),
        "max_shift": float(duals["max_shift"]),
        "lower": duals["lower"],
        "upper": duals["upper"],
    }
    return Solution(found, float(worth @ found), float(worth @ start_shares), told, worth)


def counts(weights: ArrayLike, total: int, *, capacity: ArrayLike | None = None) -> NDArray[np.int64]:
    """Turn shares into whole rows: by largest remainder, what a full category cannot take going to the others.

    Args:
        weights: (K,), shares; at least 0, not all 0.
        total: rows.
        capacity: (K,), most rows of each category; default without bound.

    Returns:
        int64 (K,), sums to `total`. Of equal remainders the first is served first.

    Raises:
        ValueError: the shares are no shares, or the capacities hold fewer rows than `total`.
    """
    shares = np.asarray(weights, dtype=np.float64)
    if shares.ndim != 1 or not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() <= 0:
        raise ValueError("weights must be one finite number of at least 0 a category, and not all 0")
    room = np.full(len(shares), total) if capacity is None else np.asarray(capacity, dtype=np.int64)
    return apportion(shares, total, room)


def _distribution(name: str, values: ArrayLike) -> Vector:
    shares = np.asarray(values, dtype=np.float64)
    if shares.ndim != 1 or not len(shares) or not np.isfinite(shares).all() or (shares < 0).any():
        raise ValueError(f"{name} has shape {shares.shape}; expected one finite number of at least 0 a category")
    if abs(shares.sum() - 1) > 1e-6:
        raise ValueError(f"{name} sums to {shares.sum():.6g}; it has to sum to 1")
    found: Vector = shares / shares.sum()
    return found


def _worth(
    importance: Vector, gamma: ArrayLike, error: ArrayLike | None, caution: float, labels: Sequence[str]
) -> Vector:
    """Coefficients of the objective, float64 (K,)."""
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
        columns = [labels[place] for place in np.flatnonzero(missing).tolist()]
        raise ValueError(
            f"gamma is unknown for {', '.join(columns)}, which importance counts; give them importance 0, "
            "measure them on more rows, or take unknown effects for none"
        )
    found: Vector = counted @ importance[importance > 0]
    return found


def _check_bounds(low: Vector, high: Vector, start_shares: Vector, max_shift: float, labels: Sequence[str]) -> None:
    """Say which constraints contradict each other, if some do."""
    crossed = [labels[place] for place in np.flatnonzero(low > high + ROUNDING).tolist()]
    if crossed:
        raise ValueError(f"lower is above upper for {', '.join(crossed)}; a floor cannot be above what there is")
    if low.sum() > 1 + ROUNDING:
        raised = [labels[place] for place in np.flatnonzero(low > 0).tolist()]
        raise ValueError(f"the lower bounds of {', '.join(raised)} sum to {low.sum():.4g}, above 1; lower some")
    if high.sum() < 1 - ROUNDING:
        bound = [labels[place] for place in np.flatnonzero(high < 1).tolist()]
        raise ValueError(f"the upper bounds of {', '.join(bound)} sum to {high.sum():.4g}, below 1; raise some")
    rise, fall = np.maximum(low - start_shares, 0), np.maximum(start_shares - high, 0)
    needed = max(rise.sum(), fall.sum())
    if needed > max_shift + ROUNDING:
        moved = rise if rise.sum() >= fall.sum() else fall
        far = [labels[place] for place in np.flatnonzero(moved > ROUNDING).tolist()]
        kind = "lower" if moved is rise else "upper"
        raise ValueError(
            f"the {kind} bounds of {', '.join(far)} need a shift of {needed:.4g}, and max_shift is {max_shift:.4g}; "
            "raise it or loosen the bounds"
        )
