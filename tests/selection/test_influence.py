"""What a choice serves, against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.selection.influence import aid, redundancy, thi

MATRIX = np.random.default_rng(0).normal(size=(60, 7)).astype(np.float32)
TASKS = ["c", "a", "c", "b", "a", "a", "b"]


def test_aid_is_the_mean_of_the_chosen_rows():
    np.testing.assert_allclose(aid(MATRIX, np.array([3, 9, 4])), MATRIX[[3, 9, 4]].mean(axis=0), rtol=1e-6)


def test_thi_counts_rows_by_the_task_with_their_largest_sum():
    rows = np.array([5, 1, 50, 20, 33])
    expected = dict.fromkeys("abc", 0)
    for row in rows:
        sums = {name: sum(MATRIX[row, j] for j in range(7) if TASKS[j] == name) for name in "abc"}
        expected[max(sums, key=sums.get)] += 1
    assert thi(MATRIX, rows, TASKS).tolist() == list(expected.values())
    assert thi(np.zeros((2, 7)), np.array([0, 1]), TASKS).tolist() == [2, 0, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.integers(1, 6), st.integers(1, 7), st.integers(0, 99))
def test_redundancy_is_the_mean_cosine_of_all_pairs_whatever_the_blocks(rows, dim, block, seed):
    units = np.random.default_rng(seed).normal(size=(rows, dim))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    cosines = units @ units.T
    expected = (cosines.sum() - rows) / (rows * (rows - 1))
    value = redundancy(units[start : start + block] for start in range(0, rows, block))
    assert value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("blocks", [[], [np.ones((1, 1))]])
def test_fewer_than_two_rows_have_no_redundancy(blocks):
    assert redundancy(blocks) == 0.0


@pytest.mark.parametrize("indices", [np.array([], dtype=int), np.array([60]), np.array([-1]), np.array([[1]]), [0.5]])
def test_rows_that_are_none_are_refused(indices):
    with pytest.raises(ValueError, match="indices must be"):
        aid(MATRIX, indices)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one label for each of 7 columns, got 2"):
        thi(MATRIX, np.array([0]), ["a", "b"])


def test_thi_by_instance_counts_rows_by_the_task_with_their_largest_entry():
    # The sum of the row favours b, its largest entry is of a; a tie counts for the first task.
    matrix = np.array([[3.0, 2.0, 2.0], [1.0, 1.0, 0.0]])
    tasks = ["a", "b", "b"]
    assert thi(matrix, np.array([0]), tasks).tolist() == [0, 1]
    assert thi(matrix, np.array([0, 1]), tasks, instance_wise=True).tolist() == [2, 0]


def test_no_rows_serve_no_task():
    assert thi(MATRIX, np.array([], dtype=int), TASKS).tolist() == [0, 0, 0]


def test_choices_of_more_than_one_block_are_averaged_and_counted_whole():
    matrix = np.random.default_rng(1).normal(size=(30, 100)).astype(np.float16)
    rows = np.arange(60_000) % 30
    np.testing.assert_allclose(aid(matrix, rows), matrix.astype(float).mean(axis=0), rtol=0, atol=1e-12)
    tasks = np.arange(100) % 3
    assert thi(matrix, rows, tasks).tolist() == (2000 * thi(matrix, np.arange(30), tasks)).tolist()


def test_a_chosen_row_that_is_not_finite_is_refused_and_another_is_not_looked_at():
    matrix = MATRIX.copy()
    matrix[7, 2] = np.nan
    aid(matrix, np.array([6, 8]))
    with pytest.raises(ValueError, match="finite.*row 7"):
        aid(matrix, np.array([6, 7]))
    with pytest.raises(ValueError, match="finite.*row 7"):
        thi(matrix, np.array([7]), TASKS)


def test_redundancy_does_not_depend_on_the_length_of_rows():
    assert redundancy([np.array([[3, 4]]), np.array([[-40.0, 30.0], [6e-9, 8e-9]])]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([np.ones(3)], "rank 2"),
        ([np.ones((1, 2)), np.ones((1, 3))], "2 columns in every block, got 3"),
        ([np.ones((2, 2)), np.array([[1.0, 1.0], [0.0, 0.0]])], "0.0 at row 3"),
        ([np.array([[np.nan, 1.0]])], "nan at row 0"),
    ],
)
def test_features_without_direction_or_of_another_shape_are_refused(blocks, message):
    with pytest.raises(ValueError, match=message):
        redundancy(blocks)
