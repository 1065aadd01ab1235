"""No row of the pool: training on the validation rows alone, as long as on any selection.

What a method selects by could also be trained on. Where this does as well as a selection, none is needed.
"""

from collections.abc import Collection
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from instsel.selection.base import Form, Method
from instsel.selection.full_pool import check_no_mixture
from instsel.selection.method_data import IndexData
from instsel.selection.picked import Selection


class ValidationOnly(Method):
    """The validation rows of all targets, repeated until there are as many as the budget has."""

    picks: ClassVar[Literal["budget", "all", "none"]] = "none"

    method: Literal["validation_only"] = Field(
        description="no row of the pool: the validation rows of all targets, repeated to the size of the budget"
    )

    def select(self, data: IndexData, budget: int, seed: int) -> Selection:
        return Selection(np.empty(0, np.int64), np.empty(0))

    def reasons(self, data: IndexData, selection: Selection, seed: int) -> list[str]:
        return []

    def check(self, targets: Collection[str], form: Form) -> None:
        check_no_mixture(self)
        if self.order != "shuffled":
            raise ValueError(
                f"selection.methods: {self.name!r} has order: {self.order}, which is by categories of the pool's rows; "
                "validation rows have none, remove it"
            )
