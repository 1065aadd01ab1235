"""What a budget stands for."""

import pytest

from instsel.choice.budget import Budget
from instsel.errors import InputError
from instsel.study.results import RowCount


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
    assert Budget(budget).of(RowCount(rows=pool, tokens=0)) == Budget(rows)


def test_a_budget_of_tokens_is_of_the_pools_tokens() -> None:
    pool = RowCount(rows=3, tokens=1000)
    assert Budget(0.25, "tokens").of(pool) == Budget(250, "tokens")
    assert Budget(999, "tokens").of(pool) == Budget(999, "tokens")


@pytest.mark.parametrize(("amount", "unit"), [(11, "rows"), (101, "tokens")])
def test_a_budget_above_the_pool_is_refused(amount: int, unit: str) -> None:
    pool = RowCount(rows=10, tokens=100)
    what = f"selection.budget is {amount} {unit}, but the pool has {getattr(pool, unit)} usable ones; lower it"
    with pytest.raises(InputError, match=what):
        Budget(amount, unit).of(pool)
