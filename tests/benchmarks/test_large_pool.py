"""The benchmark of large pools, and its picks of 10^5 rows against a choice that ranks all columns to the end."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import large_pool
from instsel.io import matrix as matrices
from instsel.io.store import Folder
from instsel.selection import Selection, bids, round_robin

ROWS, COLUMNS, PICKS = 100_000, 500, 5000


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The made-up influence, mapped from a file as that of larger pools is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrices, "MAPPED_BYTES", 2**20)
        return large_pool.lay_out(Folder.at(tmp_path_factory.mktemp("pool")), ROWS, COLUMNS)


def ranked(matrix: np.ndarray, normalize: bool) -> tuple[np.ndarray, np.ndarray]:
    """The `PICKS` best rows of every column and their values, (m, PICKS): no column ever needs more."""
    rows, values = np.empty((COLUMNS, PICKS), np.int64), np.empty((COLUMNS, PICKS))
    mean, deviation = np.zeros(COLUMNS), np.ones(COLUMNS)
    if normalize:
        mean = matrix.sum(axis=0, dtype=np.float64) / ROWS
        total = np.zeros(COLUMNS)
        for row in matrix:
            total += (row.astype(np.float64) - mean) ** 2
        deviation = np.sqrt(total / ROWS)
    for column in range(COLUMNS):
        standard = (matrix[:, column].astype(np.float64) - mean[column]) / deviation[column]
        rows[column] = np.argsort(-standard, kind="stable")[:PICKS]
        values[column] = standard[rows[column]]
    return rows, values


def plain_bids(matrix: np.ndarray) -> list[int]:
    rows, values = ranked(matrix, True)
    mean = matrix.sum(axis=0, dtype=np.float64) / ROWS
    deviation = np.std(matrix.astype(np.float64), axis=0)
    taken, depths = np.zeros(ROWS, bool), np.zeros(COLUMNS, np.int64)
    total, picks, every = np.zeros(COLUMNS), [], np.arange(COLUMNS)
    for pick in range(PICKS):
        while (behind := taken[rows[every, depths]]).any():
            depths[behind] += 1
        shortfalls = values[every, depths] - total / max(pick, 1)
        row = int(rows[shortfalls.argmax(), depths[shortfalls.argmax()]])
        picks.append(row)
        taken[row] = True
        total += (matrix[row].astype(np.float64) - mean) / deviation
    return picks


def plain_round_robin(matrix: np.ndarray) -> list[int]:
    rows, _ = ranked(matrix, False)
    taken, picks = np.zeros(ROWS, bool), []
    for pick in range(PICKS):
        column = rows[pick % COLUMNS]
        picks.append(int(column[~taken[column]][0]))
        taken[picks[-1]] = True
    return picks


def test_fault_15_bids_of_10_5_rows_is_the_plain_choice(pool: np.ndarray) -> None:
    selection: Selection = bids.select(pool, PICKS)
    assert selection.indices.tolist() == plain_bids(pool)


def test_fault_15_round_robin_of_10_5_rows_is_the_plain_choice(pool: np.ndarray) -> None:
    assert round_robin.select(pool, PICKS).indices.tolist() == plain_round_robin(pool)


def test_every_method_has_a_line_for_every_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices, "MAPPED_BYTES", 2**16)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    large_pool.main(
        ["--rows", "2000", "3500", "--columns", "20", "--folder", str(tmp_path), "--out", str(tmp_path / "t.md")]
    )
    lines = [line.split(" | ") for line in (tmp_path / "t.md").read_text().splitlines() if line.startswith("| ")][2:]
    methods = ["make up and lay out", "bids", "less", "round_robin", "sum"]
    assert [line[:2] for line in lines] == [[f"| {rows}", name] for rows in ("2,000", "3,500") for name in methods]
    assert [path.name for path in tmp_path.iterdir()] == ["t.md"]
