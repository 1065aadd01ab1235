from pathlib import Path

import numpy as np
import pytest

from instsel import arrays


def test_memory_mapped_arrays_become_plain_views(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3), dtype=np.float16))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    array = arrays.matrix("a", mapped)
    assert type(array) is np.ndarray
    assert np.shares_memory(array, mapped)


def test_a_bad_value_beyond_the_first_block_is_named_by_its_place() -> None:
    values = np.zeros((3_000_000, 4), dtype=np.float32)
    values[2_500_001, 3] = -np.inf
    with pytest.raises(ValueError, match="-inf at row 2500001, column 3"):
        arrays.attribution_matrix(values)


@pytest.mark.parametrize("value", [3, np.int32(3), np.uint64(3)])
def test_whole_numbers_of_any_kind_are_taken(value: int) -> None:
    assert arrays.whole_number("k", value) == 3


@pytest.mark.parametrize("value", [3.0, "3", None, True, np.bool_(True), np.array(3), [3]])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="k must be a whole number"):
        arrays.whole_number("k", value)


@pytest.mark.parametrize(("value", "rows", "expected"), [(0, 5, 0), (5, 5, 5), (6, 5, 5), (2, 0, 0)])
def test_a_budget_buys_at_most_all_rows(value: int, rows: int, expected: int) -> None:
    assert arrays.budget(value, rows) == expected


def test_numbers_from_zero_become_float64() -> None:
    values = arrays.not_negative("loss", [0, 2, 1])
    assert (values.dtype, values.tolist()) == (np.dtype(np.float64), [0.0, 2.0, 1.0])
    assert np.isnan(arrays.not_negative("loss", np.array([np.nan], np.float32), nan=True)).all()
    assert arrays.not_negative("loss", []).shape == (0,)


@pytest.mark.parametrize(
    ("values", "nan", "message"),
    [
        ([[1.0]], False, r"shape \(1, 1\)"),
        (3.0, False, r"shape \(\)"),
        (["1"], False, "<U1"),
        ([True], False, "bool"),
        ([1.0, np.nan], False, "got nan at row 1"),
        ([1.0, np.nan, -0.5], True, "got -0.5 at row 2"),
        ([np.inf], True, "got inf at row 0"),
        ([0, -3], False, "got -3 at row 1"),
    ],
)
def test_what_is_no_list_of_numbers_from_zero_is_refused(values: object, nan: bool, message: str) -> None:
    with pytest.raises(ValueError, match=f"^loss must be .*{message}"):
        arrays.not_negative("loss", values, nan=nan)


def test_labels_are_numbered_in_their_order() -> None:
    unique, positions = arrays.labels("groups", ["b", "a", "b"])
    assert (unique.tolist(), positions.tolist()) == (["a", "b"], [1, 0, 1])
    assert [len(part) for part in arrays.labels("groups", [])] == [0, 0]


def test_moments_are_those_of_the_columns_and_never_zero() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=(50_000, 90)).astype(np.float32)
    values[:, 4] = 7
    mean, deviation = arrays.moments(values)
    np.testing.assert_allclose(mean, values.mean(axis=0, dtype=np.float64))
    assert deviation[4] == 1
    np.testing.assert_allclose(np.delete(deviation, 4), np.delete(values.std(axis=0, dtype=np.float64), 4))


def test_equal_remainders_are_served_in_order_though_floats_tell_them_apart() -> None:
    """4/3 - 1 is below 1/3 in floats: the last of three equal remainders was served first."""
    assert arrays.largest_remainder(np.array([4.0, 4.0, 1.0]), 3, np.full(3, 3)).tolist() == [2, 1, 0]
