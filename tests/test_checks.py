from pathlib import Path

import numpy as np
import pytest

from instsel import checks


def test_memory_mapped_arrays_become_plain_views(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3), dtype=np.float16))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    array = checks.matrix("a", mapped)
    assert type(array) is np.ndarray
    assert np.shares_memory(array, mapped)


def test_a_bad_value_beyond_the_first_block_is_named_by_its_place() -> None:
    values = np.zeros((3_000_000, 4), dtype=np.float32)
    values[2_500_001, 3] = -np.inf
    with pytest.raises(ValueError, match="-inf at row 2500001, column 3"):
        checks.attribution_matrix(values)


@pytest.mark.parametrize("value", [3, np.int32(3), np.uint64(3)])
def test_whole_numbers_of_any_kind_are_taken(value: int) -> None:
    assert checks.whole_number("k", value) == 3


@pytest.mark.parametrize("value", [3.0, "3", None, True, np.bool_(True), np.array(3), [3]])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="k must be a whole number"):
        checks.whole_number("k", value)


@pytest.mark.parametrize(("value", "rows", "expected"), [(0, 5, 0), (5, 5, 5), (6, 5, 5), (2, 0, 0)])
def test_a_budget_buys_at_most_all_rows(value: int, rows: int, expected: int) -> None:
    assert checks.budget(value, rows) == expected
