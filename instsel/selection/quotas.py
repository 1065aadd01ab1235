"""Quotas: each target chooses its share of the rows, by the method on its own columns, in turns with the others.

With equal quotas and one score a row this is LESS target by target. A method that reads columns brings one `Picker` a
target; what the targets have in common, the rows that are taken, is here.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from instsel import arrays
from instsel.selection.influence import members
from instsel.selection.picked import Selection
from instsel.selection.pickers import Picker, check_shares

EQUAL = "equal"


def quota_counts(shares: Sequence[float], budget: int) -> np.ndarray:
    """Split a budget by shares: int64 (K,), by largest remainder, of equal remainders the first is served first."""
    return arrays.largest_remainder(np.asarray(shares, dtype=np.float64), budget, np.full(len(shares), budget))


def turns(counts: np.ndarray) -> Iterator[int]:
    """Yield whose turn it is: all in order, one row each, as long as their counts last."""
    for cycle in range(int(counts.max(initial=0))):
        yield from np.flatnonzero(counts > cycle).tolist()


def take(pickers: Mapping[int, Picker] | Sequence[Picker], order: Iterator[int], rows: int, count: int) -> Selection:
    """Pick rows in turns; a row that is taken is there for nobody else.

    Args:
        pickers: by their numbers.
        order: number of the picker whose turn it is, for each pick.
        rows: of the pool.
        count: of picks, at most `rows`.
    """
    indices, scores, drivers = np.empty(count, np.int64), np.empty(count), np.zeros(count, np.int64)
    taken, is_driven = np.zeros(rows, dtype=bool), count == 0
    for turn in range(count):
        indices[turn], scores[turn], driver = pickers[next(order)].pick(taken)
        if driver is not None:
            drivers[turn], is_driven = driver, True
        taken[indices[turn]] = True
    return Selection(indices, scores, drivers if is_driven else None)


@dataclass(frozen=True)
class QuotaChoice:
    """A selection by quotas, and for each pick the label that chose it."""

    selection: Selection
    labels: Sequence[Hashable]


class PickersOf(Protocol):
    """Makes the pickers of a method: one for each group of columns, int64 (columns of the target,), in their order.

    `count` is the number of picks of all groups together.
    """

    def __call__(self, groups: Sequence[np.ndarray], count: int) -> list[Picker]: ...


def select(
    pickers_of: PickersOf,
    rows: int,
    budget: int,
    *,
    quotas: Mapping[Any, float] | Literal["equal"],
    targets: Sequence[Hashable] | np.ndarray,
) -> QuotaChoice:
    """Pick rows by quotas.

    Args:
        pickers_of: the method.
        rows: of the pool, n.
        budget: rows wanted; above n gives all n.
        quotas: label -> share of the picks, for every label, in all 1; or "equal".
        targets: (m,) one label a column; the labels must sort, and have their turns in sorted order.

    Raises:
        ValueError: labels that do not sort, shares that do not fit them or do not sum to 1, a negative budget.
    """
    unique, positions = arrays.labels("targets", targets)
    labels = unique.tolist()
    if isinstance(quotas, str):
        if quotas != EQUAL:
            raise ValueError(f"quotas must be 'equal' or a share for each target, got {quotas!r}")
        shares = [1 / len(labels)] * len(labels)
    else:
        check_shares(quotas, labels)
        shares = [float(quotas[label]) for label in labels]
    wanted = arrays.budget(budget, rows)
    counts = quota_counts(shares, wanted)
    # Of a target without picks nothing is computed, and nothing is asked.
    choosing = np.flatnonzero(counts)
    groups = members("targets", positions, len(positions))
    groups_choosing = [groups[position] for position in choosing]
    pickers = dict(zip(choosing.tolist(), pickers_of(groups_choosing, wanted) if wanted else [], strict=True))
    selection = take(pickers, turns(counts), rows, wanted)
    return QuotaChoice(selection, [labels[position] for position in turns(counts)])
