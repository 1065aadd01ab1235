"""Stratified choice: a random draw that gives every group its share."""

from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field

from instsel import arrays
from instsel.arrays import Labels
from instsel.selection import random
from instsel.selection.base import GroupedMethod
from instsel.selection.method_data import IndexData
from instsel.selection.picked import Selection, label_reasons

Shares = Literal["proportional", "equal"]


def select(groups: Labels, budget: int, *, shares: Shares, seed: int) -> Selection:
    """Draw rows uniformly, without replacement, inside every group.

    The rows of the pool are put in the order of `random.select` with the same seed, the same on every platform, and
    each group gives the first of its rows until its share is full. With one group this is the random draw itself.

    Args:
        groups: (n,) one label a row; the labels must sort.
        budget: rows wanted; above n gives all n.
        shares: "proportional" gives a group the share of the budget that it has of the pool, by largest remainder;
            "equal" gives all groups the same number, those that are too small all they have, and shares out what is
            left among the others alike. Where it does not come out even, the first groups in sorted order get more.
        seed: any whole number from 0.

    Returns:
        Selection in the order of the draw, the groups mixed, with scores 0; `driven_by` is the position of the row's
        group among the sorted unique labels.

    Raises:
        ValueError: labels of another rank, that are NaN or do not sort, unknown shares, a negative budget or seed.
    """
    unique, members = arrays.labels("groups", groups)
    count = arrays.budget(budget, len(members))
    if shares not in ("proportional", "equal"):
        raise ValueError(f'shares must be "proportional" or "equal", got {shares!r}')
    order = random.select(len(members), len(members), seed=seed).indices
    sizes = np.bincount(members, minlength=len(unique))
    quotas = _proportional(sizes, count) if shares == "proportional" else _equal(sizes, count)
    drawn = members[order]
    picked = order[random.rank_in_group(drawn, sizes) < quotas[drawn]]
    return Selection(picked, np.zeros(count), members[picked])


def _proportional(sizes: np.ndarray, count: int) -> np.ndarray:
    """Split `count` by largest remainder, ties to the first: int64, the sum is `count`."""
    rows = max(1, int(sizes.sum()))
    quotas, remainders = np.divmod(sizes * count, rows)
    more = np.argsort(-remainders, kind="stable")[: count - int(quotas.sum())]
    quotas[more] += 1
    return quotas


def _equal(sizes: np.ndarray, count: int) -> np.ndarray:
    """Split `count` into equal shares, each at most the group's size, what is over shared out again."""
    quotas = np.zeros_like(sizes)
    while left := count - int(quotas.sum()):
        able = np.flatnonzero(quotas < sizes)
        share = left // len(able)
        if share == 0:
            quotas[able[:left]] += 1
        else:
            quotas[able] = np.minimum(sizes[able], quotas[able] + share)
    return quotas


class _Stratified(GroupedMethod):
    """What the two draws share: the array function's `shares` is the method's name."""

    is_stochastic = True
    is_prefix_stable = False

    def select(self, data: IndexData, budget: int, seed: int) -> Selection:
        return select(data.groups(self.by), budget, shares=self.method, seed=seed)  # type: ignore[arg-type]

    def reasons(self, data: IndexData, selection: Selection, seed: int) -> list[str]:
        return label_reasons(f"uniform draw, seed {seed}, within {self.by}", data.groups(self.by), selection)


class Proportional(_Stratified):
    """A draw that keeps the groups' shares of the pool."""

    array_function = staticmethod(partial(select, shares="proportional"))

    method: Literal["proportional"] = Field(description="a uniform draw within each source, as large as its share")


class Equal(_Stratified):
    """A draw that gives all groups the same number of rows."""

    array_function = staticmethod(partial(select, shares="equal"))

    method: Literal["equal"] = Field(description="a uniform draw within each source, all of one size")
