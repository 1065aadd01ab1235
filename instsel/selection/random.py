"""Random choice: the baseline that every method must beat."""

import warnings
from collections.abc import Collection
from difflib import get_close_matches
from typing import Literal

import numpy as np
from pydantic import Field, JsonValue

from instsel import arrays
from instsel.selection.base import Form, IndexData, Method, Selection

# Of a pool with more sources an error names the nearest ones alone.
_NAMED_SOURCES = 10


def select(n: int, budget: int, *, seed: int, among: np.ndarray | None = None) -> Selection:
    """Pick rows uniformly at random, without replacement.

    For one seed and pool a smaller budget gives the beginning of a larger one's picks, and the picks are the same on
    every platform and numpy version: they come from the raw words of PCG64, which numpy keeps fixed, unlike the
    methods of its Generator.

    Args:
        n: rows in the pool.
        budget: rows wanted; above the rows that may be picked gives all of them.
        seed: any whole number from 0.
        among: bool (n,), which rows may be picked, in the order that they have in the draw from all; default all.

    Returns:
        Selection with scores 0 and no `driven_by`.

    Raises:
        ValueError: n, budget or seed negative or not whole, or `among` of another shape or dtype.
    """
    rows = arrays.whole_number("n", n)
    wanted = arrays.budget(budget, rows)
    keys = np.random.PCG64(arrays.whole_number("seed", seed)).random_raw(rows)
    order = np.argsort(keys, kind="stable")
    if among is not None:
        allowed = np.asarray(among)
        if allowed.shape != (rows,) or allowed.dtype != np.bool_:
            raise ValueError(f"among must be bool ({rows},), got {allowed.dtype} of shape {allowed.shape}")
        order = order[allowed[order]]
    picked = order[:wanted]
    return Selection(picked, np.zeros(len(picked)))


def _suggestion(name: str, sources: Collection[str]) -> str:
    if near := get_close_matches(name, sources):
        return f"did you mean {' or '.join(near)}?"
    known = sorted(sources)[:_NAMED_SOURCES]
    return f"it has {', '.join(known)}" + (
        f" and {len(sources) - len(known)} more" if len(sources) > len(known) else ""
    )


class Random(Method):
    """A uniform draw, which the report compares every other method with."""

    is_stochastic = True
    is_baseline = True
    array_function = staticmethod(select)

    method: Literal["random"] = Field(description="a uniform draw, the baseline of the report")
    sources: list[str] | None = Field(
        None, min_length=1, description="draw only from these sources of the pool; default from all"
    )

    def select(self, data: IndexData, budget: int, seed: int) -> Selection:
        if self.sources is None:
            return select(len(data), budget, seed=seed)
        among = np.isin(data.groups("source"), self.sources)
        if (rows := int(among.sum())) < budget:
            warnings.warn(f"{', '.join(self.sources)} have {rows} rows, and no more are chosen", stacklevel=2)
        return select(len(data), budget, seed=seed, among=among)

    def reasons(self, data: IndexData, selection: Selection, seed: int) -> list[str]:
        drawn_from = "" if self.sources is None else f" from {', '.join(self.sources)}"
        return [f"uniform draw{drawn_from}, seed {seed}"] * len(selection)

    def check(self, targets: Collection[str], form: Form) -> None:
        if self.sources is not None and self.mixture is not None:
            raise ValueError(
                f"selection.methods: {self.name!r} has sources and a mixture, whose shares are of all rows; "
                "remove one of them"
            )

    def check_sources(self, sources: Collection[str]) -> None:
        for name in self.sources or ():
            if name not in sources:
                raise ValueError(
                    f"selection.methods: {self.name!r} draws from the source {name!r}, which the pool does not have; "
                    f"{_suggestion(name, sources)}"
                )

    def settings(self) -> dict[str, JsonValue]:
        # A plain draw has the settings that it had before there were sources, so that nothing is done again for them.
        return {key: value for key, value in super().settings().items() if key != "sources" or value is not None}

    @property
    def is_comparable(self) -> bool:
        return self.sources is None
