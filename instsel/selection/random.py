"""Random choice: the baseline that every method must beat."""

from typing import Literal

import numpy as np
from pydantic import Field

from instsel import arrays
from instsel.selection.base import IndexData, Method, Selection


def select(n: int, budget: int, *, seed: int) -> Selection:
    """Pick rows uniformly at random, without replacement.

    For one seed and pool a smaller budget gives the beginning of a larger one's picks, and the picks are the same on
    every platform and numpy version: they come from the raw words of PCG64, which numpy keeps fixed, unlike the
    methods of its Generator.

    Args:
        n: rows in the pool.
        budget: rows wanted; above n gives all n.
        seed: any whole number from 0.

    Returns:
        Selection with scores 0 and no `driven_by`.

    Raises:
        ValueError: n, budget or seed negative or not whole.
    """
    rows = arrays.whole_number("n", n)
    count = arrays.budget(budget, rows)
    keys = np.random.PCG64(arrays.whole_number("seed", seed)).random_raw(rows)
    order = np.argsort(keys, kind="stable")[:count]
    return Selection(order, np.zeros(count))


class Random(Method):
    """A uniform draw, which the report compares every other method with."""

    is_stochastic = True
    is_baseline = True
    array_function = staticmethod(select)

    method: Literal["random"] = Field(description="a uniform draw, the baseline of the report")

    def select(self, data: IndexData, budget: int, seed: int) -> Selection:
        return select(len(data), budget, seed=seed)

    def reasons(self, data: IndexData, selection: Selection, seed: int) -> list[str]:
        return [f"uniform draw, seed {seed}"] * len(selection)
