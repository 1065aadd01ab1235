"""A budget of rows or tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from instsel.errors import InputError


@dataclass(frozen=True)
class Budget:
    """What may be chosen.

    Attributes:
        amount: a whole number is a count, a number with a point a share of the pool.
        unit: "rows" or "tokens", prompts counted.
    """

    amount: int | float
    unit: str = "rows"

    def of(self, pool: Mapping[str, Any]) -> "Budget":
        """The count that the budget stands for: as it is, or a share rounded down but at least one.

        Args:
            pool: how many `rows` and `tokens` the pool has, those counted that a method cannot choose.

        Raises:
            InputError: the count is above the pool.
        """
        whole = pool[self.unit]
        if isinstance(self.amount, float):
            # Rounded first: 0.29 * 100 is 28.999999999999996.
            return Budget(max(1, int(round(self.amount * whole, 6))), self.unit)
        if self.amount > whole:
            raise InputError(
                f"selection.budget is {self.amount} {self.unit}, but the pool has {whole} usable ones; lower it"
            )
        return self
