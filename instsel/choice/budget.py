"""A budget of rows or tokens, and a choice that keeps within it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from instsel.choice.choosers import Chooser
from instsel.errors import InputError
from instsel.selection import Selection
from instsel.study.results import RowCount


@dataclass(frozen=True)
class Budget:
    """What may be chosen.

    Attributes:
        amount: a whole number is a count, a number with a point a share of the pool.
        unit: "rows" or "tokens", prompts counted.
    """

    amount: int | float
    unit: str = "rows"

    def of(self, pool: RowCount) -> "Budget":
        """The count that the budget stands for: as it is, or a share rounded down but at least one.

        Args:
            pool: how many `rows` and `tokens` the pool has, those counted that a method cannot choose.

        Raises:
            InputError: the count is above the pool.
        """
        whole = pool.rows if self.unit == "rows" else pool.tokens
        if isinstance(self.amount, float):
            # Rounded first: 0.29 * 100 is 28.999999999999996.
            return Budget(max(1, int(round(self.amount * whole, 6))), self.unit)
        if self.amount > whole:
            raise InputError(
                f"selection.budget is {self.amount} {self.unit}, but the pool has {whole} usable ones; lower it"
            )
        return self


def choose(chooser: Chooser, budget: Budget, tokens: Sequence[int] | np.ndarray, nested: bool) -> Selection:
    """Choose within a budget.

    A budget of tokens is kept by the number of rows: the most picks, in pick order, that hold no more tokens.

    Args:
        chooser: the method.
        budget: a count of rows or tokens.
        tokens: of each row in `chooser.ids`.
        nested: whether the choice of fewer rows is the beginning of that of more; else the number of rows is searched
            by halving, and the choice may leave some tokens unused.

    Raises:
        InputError: the budget holds no row.
    """
    sizes, room = np.asarray(tokens, dtype=np.int64), int(budget.amount)
    if budget.unit == "rows":
        return chooser.pick(room)
    found = _nested(chooser, room, sizes) if nested else _searched(chooser, room, sizes)
    if not len(found):
        raise InputError(f"selection.budget is {room} tokens, and the first row chosen has more; raise it")
    return found


def _nested(chooser: Chooser, room: int, sizes: np.ndarray) -> Selection:
    rows = min(len(sizes), 1 + int(1.5 * room / max(sizes.mean(), 1)))
    found = chooser.pick(rows)
    while sizes[found.indices].sum() <= room and rows < len(sizes):
        rows = min(len(sizes), 2 * rows)
        found = chooser.pick(rows)
    kept = int(np.searchsorted(np.cumsum(sizes[found.indices]), room, side="right"))
    callers = None if found.driven_by is None else found.driven_by[:kept]
    return Selection(found.indices[:kept], found.scores[:kept], callers)


def _searched(chooser: Chooser, room: int, sizes: np.ndarray) -> Selection:
    """The choice of the most rows that fit, where more rows hold more tokens."""
    low, high = 0, len(sizes)
    # What a trial warns of is not said of the choice.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while low < high:
            rows = (low + high + 1) // 2
            if _fits(chooser, rows, room, sizes):
                low = rows
            else:
                high = rows - 1
    return chooser.pick(low)


def _fits(chooser: Chooser, rows: int, room: int, sizes: np.ndarray) -> bool:
    try:
        return int(sizes[chooser.pick(rows).indices].sum()) <= room
    except (ValueError, InputError):
        # A method may be left with fewer rows than that, as smart is by `num_tasks`, or a mixture with floors above
        # what there is; one row it has, or it fails below.
        if rows == 1:
            raise
        return False
