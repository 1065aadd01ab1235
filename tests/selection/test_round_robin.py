"""Columns take turns, each with its best row not yet taken."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.selection import Selection, round_robin


def naive(attribution, budget, targets=None):
    """The rule as it is written: look at every row at every turn."""
    values = np.asarray(attribution, dtype=np.float64)
    labels = [0] * values.shape[1] if targets is None else list(targets)
    queues = [[column for column, label in enumerate(labels) if label == name] for name in sorted(set(labels))]
    indices, scores, driven_by = [], [], []
    for turn in range(min(budget, len(values))):
        queue = queues[turn % len(queues)]
        column = queue.pop(0)
        queue.append(column)
        row = max(
            (row for row in range(len(values)) if row not in indices), key=lambda row: (values[row, column], -row)
        )
        indices.append(row)
        scores.append(values[row, column])
        driven_by.append(column)
    return Selection(np.array(indices, np.int64), np.array(scores, float), np.array(driven_by, np.int64))


def equal(first: Selection, second: Selection) -> bool:
    return all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in ("indices", "scores", "driven_by")
    )


# Columns:              a0   b0   a1
HAND = np.array([[0.9, 0.8, 0.1],
                 [0.8, 0.9, 0.2],
                 [0.9, 0.1, 0.3],
                 [0.0, 0.9, 0.3],
                 [0.1, 0.2, 0.0]])  # fmt: skip


def test_columns_take_turns_and_ties_go_to_the_lowest_row():
    selection = round_robin.select(HAND, 5)
    assert selection.driven_by.tolist() == [0, 1, 2, 0, 1]
    # Column 1 ties rows 1 and 3, column 2 rows 2 and 3.
    assert selection.indices.tolist() == [0, 1, 2, 4, 3]
    assert selection.scores.tolist() == [0.9, 0.9, 0.3, 0.1, 0.9]


def test_targets_take_turns_in_sorted_order_and_their_columns_within_them():
    selection = round_robin.select(HAND, 4, targets=["b", "a", "b"])
    # a has one column and every other turn; b's two columns share the rest.
    assert selection.driven_by.tolist() == [1, 0, 1, 2]
    assert selection.indices.tolist() == [1, 0, 3, 2]
    assert selection.scores.tolist() == [0.9, 0.9, 0.9, 0.3]


@settings(max_examples=80, deadline=None)
@given(data=st.data(), rows=st.integers(1, 12), columns=st.integers(1, 6))
def test_it_is_the_plain_loop(data, rows, columns):
    numbers = st.lists(st.integers(-3, 3), min_size=rows * columns, max_size=rows * columns)
    matrix = np.array(data.draw(numbers), dtype=np.float32).reshape(rows, columns)
    labels = st.lists(st.sampled_from("xyz"), min_size=columns, max_size=columns)
    targets = data.draw(st.none() | labels)
    budget = data.draw(st.integers(0, rows + 2))
    selection = round_robin.select(matrix, budget, targets=targets)
    assert equal(selection, naive(matrix, budget, targets))
    # A smaller budget is the beginning of a larger one.
    whole = round_robin.select(matrix, rows, targets=targets)
    assert selection.indices.tolist() == whole.indices[: len(selection)].tolist()


def test_real_numbers_of_a_larger_pool_give_the_plain_loops_picks():
    matrix = np.random.default_rng(0).normal(size=(300, 11)).astype(np.float32)
    targets = np.array(list("aabbbbcdddd"))
    assert equal(round_robin.select(matrix, 120, targets=targets), naive(matrix, 120, targets))


def test_targets_of_any_labels_have_the_same_number_of_picks():
    matrix = np.random.default_rng(2).normal(size=(40, 5))
    selection = round_robin.select(matrix, 12, targets=[3, 3, 3, 3, -1])
    assert (selection.driven_by == 4).sum() == 6


@pytest.mark.parametrize(
    ("attribution", "budget", "targets", "message"),
    [
        (np.zeros(3), 1, None, "rank 2"),
        (np.zeros((3, 0)), 1, None, "at least one column"),
        (np.array([[1.0, np.nan]]), 1, None, "finite, got nan at row 0, column 1"),
        (np.zeros((3, 2)), -1, None, "at least 0, got -1"),
        (np.zeros((3, 2)), 1.5, None, "whole number, got 1.5"),
        (np.zeros((3, 2)), 1, ["a"], "targets must have one label for each of 2 columns, got 1"),
        (np.zeros((3, 2)), 1, [float("nan"), 1.0], "NaN"),
        (np.zeros((3, 2)), 1, [["a"], ["b"]], "rank 1"),
    ],
)
def test_what_does_not_fit_is_rejected(attribution, budget, targets, message):
    with pytest.raises(ValueError, match=message):
        round_robin.select(attribution, budget, targets=targets)


def test_no_budget_gives_no_rows():
    assert len(round_robin.select(HAND, 0)) == 0
    assert len(round_robin.select(np.zeros((0, 2)), 3)) == 0
