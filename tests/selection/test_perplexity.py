from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.selection import perplexity

LOSSES = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 7.0]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(LOSSES)
def test_the_ends_of_the_order_are_left_out_one_after_the_other(loss: list[float]) -> None:
    """Naive: while there are too many, drop the end that is further from the middle, of equal ones the higher row."""
    order = sorted(range(len(loss)), key=lambda row: (loss[row], row))
    position_of = {row: position for position, row in enumerate(order)}
    middle = median(range(len(loss))) if loss else 0
    for budget in (0, 1, len(loss) // 2, len(loss), len(loss) + 1):
        left = list(order)
        while len(left) > budget:
            left.remove(max((left[0], left[-1]), key=lambda row: (abs(position_of[row] - middle), row)))
        got = perplexity.select(loss, budget)
        assert set(got.indices.tolist()) == set(left)
        assert got.scores.tolist() == [loss[row] for row in got.indices]


@settings(max_examples=30, deadline=None)
@given(LOSSES)
def test_a_smaller_budget_is_the_beginning_of_a_larger_one(loss: list[float]) -> None:
    whole = perplexity.select(loss, len(loss)).indices.tolist()
    assert all(perplexity.select(loss, budget).indices.tolist() == whole[:budget] for budget in range(len(loss)))


def test_rows_are_picked_from_the_median_outward() -> None:
    selection = perplexity.select(np.array([9.0, 2.0, 1.0, 3.0, 0.5], dtype=np.float32), 4)
    assert selection.indices.tolist() == [1, 2, 3, 0]
    assert selection.driven_by is None


@pytest.mark.parametrize(
    ("loss", "budget", "message"), [([1.0, np.nan], 1, "nan at row 1"), ([-1.0], 1, "-1.0"), ([1.0], -1, "-1")]
)
def test_bad_arguments_name_what_is_wrong(loss: list[float], budget: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        perplexity.select(loss, budget)
