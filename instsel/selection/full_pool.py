"""The whole pool: what training gains without a selection, and what it costs."""

from collections.abc import Collection
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from instsel.selection.base import Form, Method
from instsel.selection.method_data import IndexData
from instsel.selection.picked import Selection


class FullPool(Method):
    """All rows, whatever the budget."""

    picks: ClassVar[Literal["budget", "all", "none"]] = "all"

    method: Literal["full_pool"] = Field(description="all rows of the pool, whatever the budget")

    def select(self, data: IndexData, budget: int, seed: int) -> Selection:
        rows = min(budget, len(data))
        return Selection(np.arange(rows), np.zeros(rows))

    def reasons(self, data: IndexData, selection: Selection, seed: int) -> list[str]:
        return ["the whole pool"] * len(selection)

    def check(self, targets: Collection[str], form: Form) -> None:
        check_no_mixture(self)


def check_no_mixture(method: Method) -> None:
    """Check that a method which picks all rows or none is not asked to keep to shares.

    Raises:
        ValueError: it is.
    """
    if method.mixture is not None:
        raise ValueError(f"selection.methods: {method.name!r} picks {method.picks} of the pool's rows; remove mixture")
