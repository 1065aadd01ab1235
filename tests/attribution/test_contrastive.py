"""Contrast gradients equal the definition, and the gradient of the loss that they stand for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from instsel.attribution import contrast


def plain(features: np.ndarray, logprobs: np.ndarray, items: list[int]) -> np.ndarray:
    """The definition, item by item, with plain sums."""
    rows = []
    for item in sorted(set(items)):
        members = [row for row, label in enumerate(items) if label == item]
        shares = [np.exp(logprobs[row]) for row in members]
        mean = sum(share / sum(shares) * features[row] for share, row in zip(shares, members, strict=True))
        rows.append(features[members[0]] - mean)
    return np.array(rows)


def test_hand_computed_case_of_two_answers() -> None:
    # p = (1/4, 3/4): 0.75 of the difference of the two.
    got = contrast(np.array([[1.0, 0.0], [0.0, 2.0]]), np.log([1.0, 3.0]), ["a", "a"])
    np.testing.assert_allclose(got, [[0.75, -1.5]], rtol=1e-6)
    assert got.dtype == np.float32


def test_items_come_in_sorted_order_and_the_first_row_of_each_is_the_right_answer() -> None:
    features = np.array([[1.0], [2.0], [3.0], [4.0]])
    # z: right 1, other 4; b: right 2, other 3; equal log-probabilities give half of the difference.
    np.testing.assert_allclose(contrast(features, [0.0] * 4, ["z", "b", "b", "z"]), [[-0.5], [-1.5]])


def test_answers_that_are_alike_cancel() -> None:
    got = contrast(np.array([[1.0, -2.0]] * 3), [-1.0, -2.0, -3.0], [0, 0, 0])
    np.testing.assert_allclose(got, [[0.0, 0.0]], atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(2, 12), dimensions=st.integers(1, 6))
def test_equals_the_definition(data: st.DataObject, rows: int, dimensions: int) -> None:
    numbers = st.floats(-50, 50, width=32)
    features = data.draw(hnp.arrays(np.float32, (rows, dimensions), elements=numbers))
    logprobs = data.draw(hnp.arrays(np.float64, rows, elements=st.floats(-30, 0)))
    first = data.draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
    items = [*first, *sorted(set(first))]  # every item has two answers at least
    features = np.concatenate([features, -features[: len(items) - rows]])
    logprobs = np.concatenate([logprobs, logprobs[: len(items) - rows] - 1])
    np.testing.assert_allclose(
        contrast(features, logprobs, items), plain(features.astype(np.float64), logprobs, items), rtol=1e-5, atol=1e-4
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), answers=st.integers(2, 5))
def test_is_the_gradient_of_the_share_of_the_right_answer(seed: int, answers: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(7, generator=generator, dtype=torch.float64, requires_grad=True)
    directions = torch.randn(answers, 7, generator=generator, dtype=torch.float64)
    logprobs = -torch.nn.functional.softplus((directions * weights).sum(dim=1))
    features = torch.stack([torch.autograd.grad(-each, weights, retain_graph=True)[0] for each in logprobs])
    expected = torch.autograd.grad(-torch.log_softmax(logprobs, dim=0)[0], weights)[0]
    got = contrast(features.numpy(), logprobs.detach().numpy(), [0] * answers)
    np.testing.assert_allclose(got[0], expected.numpy(), rtol=1e-5, atol=1e-6)


def test_very_unlikely_answers_do_not_overflow() -> None:
    got = contrast(np.eye(2), [-2000.0, -1000.0], [0, 0])
    np.testing.assert_allclose(got, [[1.0, -1.0]])


@pytest.mark.parametrize(
    ("features", "logprobs", "items", "message"),
    [
        (np.eye(3), [0.0] * 3, ["a", "b", "a"], "item b has a single answer"),
        (np.eye(3), [0.0] * 2, [0, 0, 0], "got 3, 2 and 3"),
        (np.eye(3)[0], [0.0] * 3, [0, 0, 0], "features must have rank 2"),
        (np.eye(2), [[0.0], [0.0]], [0, 0], "logprobs must be one real number a row"),
        (np.eye(2), [0.0, -np.inf], [0, 0], "logprobs must be finite, got -inf at row 1"),
        (np.array([[1.0], [np.nan]]), [0.0, 0.0], [0, 0], "features must be finite, got nan at row 1"),
        (np.eye(2), [0.0, 0.0], [0, "a", 1], "got 2, 2 and 3"),
    ],
)
def test_bad_input_is_named(features: np.ndarray, logprobs: list[float], items: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrast(features, logprobs, items)


def test_no_rows_give_no_rows() -> None:
    assert contrast(np.empty((0, 4)), [], []).shape == (0, 4)
