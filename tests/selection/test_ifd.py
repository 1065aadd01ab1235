import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.selection import ifd

NUMBERS = [0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 5e-324]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NUMBERS), st.sampled_from([*NUMBERS, math.nan])), max_size=12))
def test_equals_the_plain_rule(pairs: list[tuple[float, float]]) -> None:
    helped, not_helped, without = [], [], []
    for row, (loss, alone) in enumerate(pairs):
        ratio = loss / alone if alone > 0 else math.inf
        if ratio < 1:
            helped.append((-ratio, row, ratio))
        elif math.isfinite(ratio):
            not_helped.append((ratio, row, ratio))
        else:
            without.append((0.0, row, ifd.NO_RATIO))
    expected = [(row, ratio) for part in (helped, not_helped, without) for _, row, ratio in sorted(part)]
    loss, alone = ([pair[side] for pair in pairs] for side in (0, 1))
    for budget in (0, 1, len(pairs), len(pairs) + 1):
        got = ifd.select(loss, alone, budget)
        assert list(zip(got.indices.tolist(), got.scores.tolist(), strict=True)) == expected[:budget]
        assert got.driven_by is None


def test_hard_instructions_come_first_and_useless_ones_last() -> None:
    loss, alone = np.array([0.2, 0.9, 2.0, 1.5, 1.0, 0.3]), np.array([1.0, 1.0, 1.0, 1.0, np.nan, 0.0])
    selection = ifd.select(loss, alone, 6)
    assert selection.indices.tolist() == [1, 0, 3, 2, 4, 5]
    assert selection.scores.tolist() == [0.9, 0.2, 1.5, 2.0, ifd.NO_RATIO, ifd.NO_RATIO]


@pytest.mark.parametrize(
    ("loss", "alone", "budget", "message"),
    [
        ([1.0, np.nan], [1.0, 1.0], 1, "loss must .* nan at row 1"),
        ([1.0], [-2.0], 1, "loss_alone must .* -2.0 at row 0"),
        ([1.0], [np.inf], 1, "inf at row 0"),
        ([1.0, 1.0], [1.0], 1, "2 losses, got 1"),
        ([1.0], [1.0], -1, "-1"),
    ],
)
def test_bad_arguments_name_what_is_wrong(loss: list[float], alone: list[float], budget: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ifd.select(loss, alone, budget)
