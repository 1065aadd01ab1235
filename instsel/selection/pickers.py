"""Pickers: one target's part of a method, for a choice by quotas (`instsel.selection.quotas`)."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

# Of the sum of shares, which are written in decimals or computed.
_TOLERANCE = 1e-6


class Picker(Protocol):
    """One target's part of a method: the order of its picks is that of the method on the target's columns."""

    def pick(self, taken: np.ndarray) -> tuple[int, float, int | None]:
        """Pick the next row.

        Args:
            taken: bool (n,), rows that the target itself or another one has; at least one row is free.

        Returns:
            The row, its score, and what drove the pick, as in `Selection.driven_by` of all columns.
        """


class RankedPicker:
    """Picks in a fixed order: of a method that gives every row a score of its own."""

    def __init__(self, order: np.ndarray, scores: np.ndarray, drivers: np.ndarray | None) -> None:
        """Take a ranking, best row first; it is as long as all targets have picks.

        Args:
            order: int64 (k,) rows.
            scores: (k,) of these rows.
            drivers: int64 (k,) or None.
        """
        self._order, self._scores, self._drivers, self._rank = order, scores, drivers, 0

    def pick(self, taken: np.ndarray) -> tuple[int, float, int | None]:
        while taken[self._order[self._rank]]:
            self._rank += 1
        driver = None if self._drivers is None else int(self._drivers[self._rank])
        return int(self._order[self._rank]), float(self._scores[self._rank]), driver


def check_shares(shares: Mapping[Any, float], labels: Sequence[Hashable]) -> None:
    """Check that every label has a share and that the shares sum to 1.

    Raises:
        ValueError: they do not; the message has what was given and what was expected.
    """
    known = ", ".join(map(str, labels))
    for name in shares:
        if name not in labels:
            raise ValueError(f"quotas have a share for {name!r}, which is no target; they are {known}")
    for name in labels:
        if name not in shares:
            raise ValueError(f"quotas have no share for {name!r}; write 0 if it is to have no rows (targets: {known})")
    values = list(shares.values())
    if not all(np.isfinite(value) and value >= 0 for value in values) or abs(sum(values) - 1) > _TOLERANCE:
        raise ValueError(f"quotas must be at least 0 and sum to 1, got {dict(shares)}, in all {sum(values):g}")
