"""Heads of columns from blocks of rows, against the loops that look at every row at every step."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel import arrays
from instsel.selection import bids, ranking, round_robin
from instsel.selection.influence import column_moments
from tests.selection.test_bids import CLOSE, assert_equal_to_plain
from tests.selection.test_round_robin import equal, naive


@contextmanager
def small(depth: int, block: int) -> Iterator[list[int]]:
    """Let columns keep so few rows, and passes read so few at once; yields a list with the rows of every pass."""
    passes: list[int] = []

    def stream(array: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        passes.append(len(array))
        for start in range(0, len(array), block):
            part = slice(start, min(start + block, len(array)))
            yield part, array[part]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "stream_rows", stream)
        patch.setattr(ranking, "DEPTH_FACTOR", depth)
        patch.setattr(ranking, "LEAST_DEPTH", depth)
        patch.setattr(ranking, "GROWTH", 2)
        patch.setattr(ranking, "_WAITING", 8)
        yield passes


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(2, 40),
    columns=st.integers(1, 8),
    kind=st.sampled_from(["normal", "few", "close", "alike"]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    depth=st.integers(1, 3),
    block=st.integers(1, 50),
    normalize=st.booleans(),
)
def test_fault_15_bids_by_blocks_of_rows_is_the_plain_loop(
    seed: int, rows: int, columns: int, kind: str, dtype: type, depth: int, block: int, normalize: bool
) -> None:
    random = np.random.default_rng(seed)
    values = {
        "normal": lambda: random.standard_normal((rows, columns)),
        "few": lambda: random.choice([-1.0, 0.0, 0.5, 3.0], (rows, columns)),
        "close": lambda: random.choice(CLOSE, (rows, columns)),
        # All columns want the same rows, so that they run out of what they kept.
        "alike": lambda: random.standard_normal((rows, 1)) + 1e-3 * random.standard_normal((rows, columns)),
    }[kind]().astype(dtype)
    normalize = normalize and bool((np.ptp(values, axis=0) > 0).any())
    if columns == 1 and block < rows:
        # numpy adds up a single column in pairs, and the last digits of its moments differ from ours.
        normalize = False
    with small(depth, block):
        for budget in (1, rows // 2, rows):
            assert_equal_to_plain(values, budget, normalize)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 6)),
    depth=st.integers(1, 3),
    block=st.integers(1, 40),
    order=st.sampled_from("CF"),
    dtype=st.sampled_from([np.float32, np.float64, np.int64]),
)
def test_fault_15_round_robin_by_blocks_of_rows_is_the_plain_loop(
    seed: int, shape: tuple[int, int], depth: int, block: int, order: str, dtype: type
) -> None:
    matrix = np.asarray(np.random.default_rng(seed).integers(-3, 4, shape), dtype=dtype, order=order)
    with small(depth, block):
        for budget in (1, shape[0] // 2, shape[0]):
            assert equal(round_robin.select(matrix, budget), naive(matrix, budget))


def test_fault_15_bids_reads_a_matrix_twice_and_columns_that_want_the_same_rows_once_more() -> None:
    random = np.random.default_rng(0)
    apart = random.standard_normal((3000, 10)).astype(np.float32)
    with small(ranking.DEPTH_FACTOR, 100) as passes:
        assert_equal_to_plain(apart, 300, True)
    assert passes == [3000, 3000]
    alike = (random.standard_normal((3000, 1)) + 0.01 * random.standard_normal((3000, 10))).astype(np.float32)
    with small(2, 100) as passes:
        assert_equal_to_plain(alike, 300, True)
    assert 2 < len(passes) <= 2 + 4


def test_fault_15_moments_are_those_of_numpy_whatever_the_blocks() -> None:
    matrix = np.random.default_rng(1).normal(3, 2, (1000, 7)).astype(np.float32)
    wide = matrix.astype(np.float64)
    for block in (1, 3, 999, 1000):
        with small(1, block):
            columns, mean, deviation = column_moments(matrix, "test")
        assert columns.tolist() == list(range(7))
        assert mean.tolist() == wide.mean(axis=0).tolist()
        assert deviation.tolist() == wide.std(axis=0).tolist()


def test_the_first_of_equal_values_are_kept() -> None:
    collector = ranking.Collector(2, 3)
    collector.add(0, np.array([[1.0, 5.0], [1.0, 5.0]]))
    collector.settle()
    collector.add(2, np.array([[1.0, 6.0], [1.0, 5.0], [2.0, 5.0]]), np.array([True, True, True]))
    collector.add(5, np.array([[9.0, 9.0]]), np.array([False]))
    collector.finish()
    assert collector.rows.tolist() == [[0, 1, 4], [0, 1, 2]]
    assert collector.values.tolist() == [[1.0, 1.0, 2.0], [5.0, 5.0, 6.0]]


def test_what_is_not_finite_is_named_with_its_row_whatever_the_block() -> None:
    matrix = np.zeros((10, 2), np.float32)
    matrix[7, 1] = np.nan
    with small(1, 3), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for select in (bids.select, round_robin.select):
            with pytest.raises(ValueError, match="got nan at row 7, column 1"):
                select(matrix, 3)


def test_fault_15_pages_of_a_mapped_file_are_given_back(tmp_path: Path) -> None:
    rows, columns = 200_000, 100
    path = tmp_path / "matrix"
    random = np.random.default_rng(0)
    matrix = np.memmap(path, np.float32, "w+", shape=(rows, columns))
    for start in range(0, rows, 10_000):
        matrix[start : start + 10_000] = random.standard_normal((10_000, columns), dtype=np.float32)
    arrays.MappedPages(matrix).release()
    before = _mapped()
    pages = arrays.MappedPages(matrix, most=2**22)
    highest = 0
    for block in arrays.row_blocks(rows, columns * 8, block_bytes=2**22):
        matrix[block].sum()
        highest = max(highest, _mapped() - before)
        pages.count(matrix[block].nbytes)
    # The file has 80 MB; what is next to a page that is read is mapped with it.
    assert highest < 30e6
    selection = bids.select(matrix, 1000)
    assert selection.indices.tolist() == bids.select(np.array(matrix), 1000).indices.tolist()


def test_bug_changes_of_a_private_map_are_not_given_back(tmp_path: Path) -> None:
    np.zeros((100, 100)).tofile(tmp_path / "matrix")
    matrix = np.memmap(tmp_path / "matrix", mode="c", shape=(100, 100))
    matrix[:] = 1.0
    for _, _ in arrays.stream_rows(matrix):
        pass
    assert (matrix == 1.0).all()


def _mapped() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))
