import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from instsel.selection import Selection, bids

T9 = np.array([[3, 0.1], [1, -0.3], [-1, 0.3], [-3, -0.1]])

# Neighbouring floats become equal once a larger mean is taken off them; repeats give exact ties.
CLOSE = [0.0, 1.0, float(np.nextafter(1, 2)), float(np.nextafter(1, 0)), 0.1, 7.0, -3.0, 0.1 + 2**-53]


def plain(attribution: np.ndarray, budget: int, normalize: bool) -> tuple[list[int], list[float], list[int]]:
    """Algorithm 1 of the paper, word for word, in float64."""
    z = attribution.astype(np.float64)
    columns = np.arange(z.shape[1])
    if normalize and len(z) > 1:
        columns = np.flatnonzero(np.ptp(z, axis=0) > 0)
        with np.errstate(all="ignore"):
            z = ((z - z.mean(axis=0)) / z.std(axis=0))[:, columns]
    total = np.zeros(z.shape[1])
    indices: list[int] = []
    scores: list[float] = []
    driven_by: list[int] = []
    for pick in range(min(budget, len(z))):
        shortfall = z - total / max(pick, 1)
        best = shortfall.max(axis=1)
        best[indices] = -np.inf
        row = int(np.argmax(best))
        indices.append(row)
        scores.append(best[row])
        driven_by.append(int(columns[np.argmax(shortfall[row])]))
        total += z[row]
    return indices, scores, driven_by


def assert_equal_to_plain(attribution: np.ndarray, budget: int, normalize: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = bids.select(attribution, budget, normalize=normalize)
    indices, scores, driven_by = plain(attribution, budget, normalize)
    assert got.indices.tolist() == indices
    assert got.scores.tolist() == scores
    assert got.driven_by is not None
    assert got.driven_by.tolist() == driven_by


def budgets(rows: int) -> list[int]:
    return [0, 1, rows // 2, rows, rows + 1]


def test_hand_computed_case_t9() -> None:
    selection = bids.select(T9, 3)
    assert selection.indices.tolist() == [0, 2, 1]
    np.testing.assert_allclose(selection.scores, [1.3416, 0.8944, 0.0], atol=1e-4)
    assert selection.driven_by.tolist() == [0, 1, 0]
    assert set(bids.select(T9, 2).indices) == {0, 2}


def test_without_normalisation_the_larger_column_rules_t9() -> None:
    selection = bids.select(T9, 2, normalize=False)
    assert selection.indices.tolist() == [0, 2]
    np.testing.assert_allclose(selection.scores, [3.0, 0.2])


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from(CLOSE)),
    st.booleans(),
)
def test_equals_the_plain_loop_with_ties_and_neighbouring_floats(attribution: np.ndarray, normalize: bool) -> None:
    normalize = normalize and (len(attribution) == 1 or bool((np.ptp(attribution, axis=0) > 0).any()))
    for budget in budgets(len(attribution)):
        assert_equal_to_plain(attribution, budget, normalize)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(2, 60),
    columns=st.integers(1, 12),
    scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e6]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    duplicates=st.booleans(),
    normalize=st.booleans(),
)
def test_equals_the_plain_loop_on_random_matrices(
    seed: int, rows: int, columns: int, scale: float, dtype: type, duplicates: bool, normalize: bool
) -> None:
    rng = np.random.default_rng(seed)
    attribution = rng.standard_normal((rows, columns)) * rng.uniform(0.1, 10, columns)
    attribution = (attribution * (scale if dtype != np.float16 else 1.0)).astype(dtype)
    if duplicates:
        attribution = attribution[rng.integers(rows // 2 + 1, size=rows)]
        attribution[0] = 2 * attribution[1] + dtype(scale if dtype != np.float16 else 1.0)
    for budget in budgets(rows):
        assert_equal_to_plain(attribution, budget, normalize)


def test_equals_the_plain_loop_on_a_larger_half_precision_pool() -> None:
    rng = np.random.default_rng(3)
    abilities = rng.standard_normal((3000, 6))
    attribution = (abilities @ rng.standard_normal((6, 40)) + rng.standard_normal((3000, 40))).astype(np.float16)
    assert_equal_to_plain(attribution, 600, True)


def test_a_lower_row_wins_when_rounding_makes_it_equal_beyond_the_ranking() -> None:
    # Off the mean of 2**53 all three of rows 0 to 2 fall short by the same; only row 2 is within the ranking's depth.
    attribution = np.array([[0.0], [0.25], [0.5], [2.0**53]])
    assert plain(attribution, 2, False)[0] == [3, 0]
    assert_equal_to_plain(attribution, 2, False)


def test_the_scale_and_centre_of_a_column_do_not_matter() -> None:
    attribution = np.random.default_rng(0).standard_normal((50, 4))
    moved = attribution * np.array([2.0, 0.5, 64.0, 1.0])
    assert bids.select(moved, 20).indices.tolist() == bids.select(attribution, 20).indices.tolist()


def test_columns_without_deviation_are_named_and_the_others_keep_their_numbers() -> None:
    rng = np.random.default_rng(1)
    varied = rng.standard_normal((30, 2))
    # The mean of thirty times 0.1 is not 0.1, so that a naive deviation would not be 0.
    attribution = np.column_stack([np.full(30, 0.1), varied[:, 0], np.zeros(30), varied[:, 1]])
    with pytest.warns(UserWarning, match=r"\[0, 2\]"):
        got = bids.select(attribution, 10)
    alone = bids.select(varied, 10)
    assert got.indices.tolist() == alone.indices.tolist()
    assert got.driven_by.tolist() == [[1, 3][column] for column in alone.driven_by]


def test_no_column_with_a_deviation_is_an_error() -> None:
    with pytest.raises(ValueError, match="varies"):
        bids.select(np.ones((4, 3)), 2)


def test_constant_columns_stay_without_normalisation() -> None:
    assert bids.select(np.ones((4, 3)), 9, normalize=False).indices.tolist() == [0, 1, 2, 3]


def test_one_row_is_taken_as_it_is() -> None:
    selection = bids.select(np.array([[0.25, 0.5]]), 3)
    assert (selection.indices.tolist(), selection.scores.tolist(), selection.driven_by.tolist()) == ([0], [0.5], [1])


def test_budget_nothing_and_no_rows_give_an_empty_selection() -> None:
    assert len(bids.select(T9, 0)) == 0
    assert isinstance(bids.select(np.empty((0, 3)), 5), Selection)


def test_the_input_may_be_memory_mapped_and_stays_as_it_was(tmp_path: Path) -> None:
    attribution = np.random.default_rng(2).standard_normal((40, 5)).astype(np.float16)
    np.save(tmp_path / "a.npy", attribution)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert bids.select(mapped, 7).indices.tolist() == bids.select(attribution, 7).indices.tolist()


@pytest.mark.parametrize(
    ("attribution", "budget", "message"),
    [
        (np.zeros(3), 1, "rank 2"),
        (np.zeros((3, 0)), 1, "column"),
        (np.array([[0.0, 1.0], [np.nan, 1.0]]), 1, "row 1, column 0"),
        (np.array([[0.0, np.inf]]), 0, "row 0, column 1"),
        (np.array([["a", "b"]]), 1, "dtype"),
        (T9, -1, "-1"),
        (T9, 0.5, "0.5"),
        (T9, True, "True"),
    ],
)
def test_bad_arguments_name_what_is_wrong(attribution: np.ndarray, budget: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bids.select(attribution, budget)
