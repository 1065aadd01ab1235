"""How many rows a budget stands for."""

import pytest

from instsel.errors import InputError
from instsel.stages.select import rows_to_choose


@pytest.mark.parametrize(
    ("budget", "pool", "rows"),
    [
        (1, 10, 1),
        (10, 10, 10),
        (0.1, 100, 10),
        (0.1, 99, 9),
        (0.29, 100, 29),
        (0.57, 100, 57),
        (1.0, 7, 7),
        (0.01, 7, 1),
    ],
)
def test_a_budget_is_a_count_or_a_share_of_the_pool(budget: int | float, pool: int, rows: int) -> None:
    assert rows_to_choose(budget, pool) == rows


def test_a_budget_above_the_pool_is_refused() -> None:
    with pytest.raises(InputError, match="selection.budget is 11 rows, but the pool has 10 usable ones; lower it"):
        rows_to_choose(11, 10)
