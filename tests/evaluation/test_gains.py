"""Form and content of gains: the case of the specification, the definition, and bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from instsel.evaluation import form_and_content


def plain(base: tuple, run: tuple) -> tuple[list[float], list[float]]:
    """The definition, an item and an answer at a time."""
    form, content = [], []
    for item in range(len(base[0])):
        matched = run[0][item] - base[0][item]
        gains = [after - before for before, after in zip(base[1][item], run[1][item], strict=True) if before == before]
        form.append(sum(gains) / len(gains))
        content.append(matched - form[-1])
    return form, content


def test_hand_computed_case_a_gain_that_is_all_form() -> None:
    form, content = form_and_content(([-4.0], [[-4.2, -4.4]]), ([-1.0], [[-1.1, -1.3]]))
    np.testing.assert_allclose((form, content), ([3.1], [-0.1]))
    assert form.dtype == content.dtype == np.float64


def test_a_gain_on_the_right_answer_alone_is_all_content() -> None:
    form, content = form_and_content(([-4.0], [[-4.0]]), ([-1.0], [[-4.0]]))
    assert (form.tolist(), content.tolist()) == ([0.0], [3.0])


def test_items_with_fewer_others_are_means_over_those_they_have() -> None:
    base = ([-2.0, -2.0], [[-3.0, np.nan], [-3.0, -5.0]])
    run = ([-1.0, -1.0], [[-2.5, np.nan], [-2.5, -2.0]])
    form, content = form_and_content(base, run)
    np.testing.assert_allclose((form, content), ([0.5, 1.75], [0.5, -0.75]))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), items=st.integers(1, 6), others=st.integers(1, 4))
def test_equals_the_definition_and_adds_up_to_the_gain(data: st.DataObject, items: int, others: int) -> None:
    numbers = st.floats(-20, 0)
    right = [data.draw(hnp.arrays(np.float64, items, elements=numbers)) for _ in range(2)]
    absent = data.draw(hnp.arrays(np.bool_, (items, others)))
    absent[:, 0] = False
    shapes = [data.draw(hnp.arrays(np.float64, (items, others), elements=numbers)) for _ in range(2)]
    base, run = ((right[i], np.where(absent, np.nan, shapes[i])) for i in range(2))
    got = form_and_content(base, run)
    np.testing.assert_allclose(got, plain(base, run), atol=1e-9)
    np.testing.assert_allclose(got[0] + got[1], right[1] - right[0], atol=1e-9)


@pytest.mark.parametrize(
    ("base", "run", "message"),
    [
        (([-1.0, -1.0], [[-1.0], [np.nan]]), ([-1.0, -1.0], [[-1.0], [np.nan]]), "item 1 has no other answer"),
        (([-1.0], [[-1.0, np.nan]]), ([-1.0], [[-1.0, -2.0]]), "same other answers, not so at item 0"),
        (([-1.0], [[-1.0]]), ([-1.0], [[-1.0, -2.0]]), "the same answers, got others of shapes"),
        (([-1.0], [-1.0]), ([-1.0], [-1.0]), r"base must be log-probabilities of right answers \(n,\)"),
        (([-1.0], [[-1.0]]), ([np.nan], [[-1.0]]), "run must be finite"),
        (([-1.0], [[-np.inf]]), ([-1.0], [[-1.0]]), "base must be finite"),
        (([-1.0], np.empty((1, 0))), ([-1.0], np.empty((1, 0))), "item 0 has no other answer"),
    ],
)
def test_bad_input_is_named(base: tuple, run: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        form_and_content(base, run)
