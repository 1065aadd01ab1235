"""A budget of rows or tokens, and a choice that keeps within it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from instsel.errors import InputError
from instsel.selection.picked import Selection
from instsel.study.results import RowCount


@dataclass(frozen=True)
class Budget:
    """What may be chosen.

    Attributes:
        amount: A whole number is a count, a number with a point a share of the pool.
        unit: "rows" or "tokens", prompts counted.
    """

    amount: int | float
    unit: str = "rows"

    def of(self, pool: RowCount) -> "Budget":
        """Return the budget as a count: as given, or a share rounded down but at least one.

        Args:
            pool: How many `rows` and `tokens` the pool has, those counted that a method cannot choose.

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


class Chooser(Protocol):
    """Chooses among rows, whatever the budget."""

    @property
    def ids(self) -> Sequence[str]:
        """Names of the rows."""

    def pick(self, rows: int) -> Selection:
        """Pick so many rows; `indices` are of `ids`."""


def choose(chooser: Chooser, budget: Budget, tokens: Sequence[int] | np.ndarray, prefix_stable: bool) -> Selection:
    """Choose within a budget.

    A budget of tokens is kept by the number of rows: the most picks, in pick order, that hold no more tokens.

    Args:
        chooser: The method on its rows.
        budget: A count of rows or tokens.
        tokens: Of each row in `chooser.ids`.
        prefix_stable: Whether the choice of fewer rows is the beginning of that of more; if not, the number of rows is
            searched by halving, and the choice may leave some tokens unused.

    Raises:
        InputError: the budget holds no row.
    """
    sizes, limit = np.asarray(tokens, dtype=np.int64), int(budget.amount)
    if budget.unit == "rows":
        return chooser.pick(limit)
    selection = _longest_prefix(chooser, limit, sizes) if prefix_stable else _searched(chooser, limit, sizes)
    if not len(selection):
        raise InputError(f"selection.budget is {limit} tokens, and the first row chosen has more; raise it")
    return selection


def _longest_prefix(chooser: Chooser, limit: int, sizes: np.ndarray) -> Selection:
    rows = min(len(sizes), 1 + int(1.5 * limit / max(sizes.mean(), 1)))
    selection = chooser.pick(rows)
    while sizes[selection.indices].sum() <= limit and rows < len(sizes):
        rows = min(len(sizes), 2 * rows)
        selection = chooser.pick(rows)
    kept = int(np.searchsorted(np.cumsum(sizes[selection.indices]), limit, side="right"))
    driven_by = None if selection.driven_by is None else selection.driven_by[:kept]
    return Selection(selection.indices[:kept], selection.scores[:kept], driven_by)


def _searched(chooser: Chooser, limit: int, sizes: np.ndarray) -> Selection:
    """Find the choice of the most rows that fit, where more rows hold more tokens."""
    low, high = 0, len(sizes)
    # What a trial warns of does not concern the choice.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while low < high:
            rows = (low + high + 1) // 2
            if _fits(chooser, rows, limit, sizes):
                low = rows
            else:
                high = rows - 1
    return chooser.pick(low)


def _fits(chooser: Chooser, rows: int, limit: int, sizes: np.ndarray) -> bool:
    try:
        return int(sizes[chooser.pick(rows).indices].sum()) <= limit
    except (ValueError, InputError):
        # A method may be left with fewer rows than that, as smart is by `num_tasks`, or a mixture with floors above
        # what there is; one row it has, or it fails below.
        if rows == 1:
            raise
        return False
