import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.selection import longest


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=12))
def test_the_most_tokens_come_first_and_ties_by_row(tokens: list[int]) -> None:
    for budget in (0, 1, len(tokens), len(tokens) + 1):
        expected = sorted(range(len(tokens)), key=lambda row: (-tokens[row], row))[:budget]
        got = longest.select(np.array(tokens, dtype=np.int32), budget)
        assert got.indices.tolist() == expected
        assert got.scores.tolist() == [tokens[row] for row in expected]
        assert got.driven_by is None


@pytest.mark.parametrize(("tokens", "budget", "message"), [([1, -7], 1, "-7 at row 1"), ([1], -1, "-1")])
def test_bad_arguments_name_what_is_wrong(tokens: list[int], budget: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        longest.select(tokens, budget)
