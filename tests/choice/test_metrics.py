"""What looks at a few rows of a large pool holds no Python object for each of the others."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from instsel.choice.explain import _standing
from instsel.choice.metrics import selection_metrics
from instsel.gradients.features import GradientShards, feature_table
from instsel.io.matrix import Matrix
from instsel.io.store import Folder
from instsel.study.reader import StudyReader

ROWS, SHARD_ROWS = 100_000, 1_000
IDS = [f"{row * 7919 % 2**40:016x}" for row in range(ROWS)]
PROVENANCE = {"epoch-1": {"pool": {"of": "first"}}}


def peak_bytes(action: Callable[[], Any]) -> tuple[Any, int]:
    """Return what an action returns, and the most memory of Python and NumPy that it held."""
    tracemalloc.start()
    try:
        return action(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def reader(tmp_path: Path) -> StudyReader:
    """A study of 10^5 rows with gradients of its second shard."""
    reader = StudyReader(Folder.at(tmp_path))
    shards = [f"00000-{row // SHARD_ROWS:06d}" for row in range(ROWS)]
    reader.__dict__["index"] = pa.table({"id": IDS, "shard": pa.array(shards).dictionary_encode().cast(pa.string())})
    reader.__dict__["gradients"] = GradientShards(Folder.at(tmp_path / "features"), PROVENANCE)
    reader.__dict__["weights"] = [1.0]
    ids, units = IDS[SHARD_ROWS : 2 * SHARD_ROWS], np.tile(np.eye(4, dtype=np.float32), (SHARD_ROWS // 4, 1))
    table = feature_table(ids, units, np.ones(SHARD_ROWS, np.float32), PROVENANCE["epoch-1"]["pool"])
    (Folder.at(tmp_path) / "features/epoch-1/pool").write_table("00000-000001.arrow", table)
    return reader


def test_fault_20_metrics_of_a_selection_hold_no_table_of_all_ids(reader: StudyReader) -> None:
    values = np.random.default_rng(0).standard_normal((ROWS, 2)).astype(np.float32)
    columns = pa.table({"id": ["v", "w"], "target": ["a", "b"], "subtask": ["a", "b"]})
    matrix = Matrix(IDS, values, columns)
    chosen = {"two": [IDS[SHARD_ROWS], IDS[SHARD_ROWS + 1]], "none": ["nobody"]}
    metrics, peak = peak_bytes(lambda: selection_metrics(chosen, matrix, reader))
    assert metrics.keys() == {"two"}
    assert metrics["two"].redundancy == pytest.approx(0.0)
    assert sum(metrics["two"].served.values()) == 2
    # A dictionary takes more than 100 bytes for each row, the moments of two columns 16.
    assert peak < 40 * ROWS


def test_fault_20_an_explanation_holds_no_table_of_all_picks(reader: StudyReader) -> None:
    table = pa.table({"id": IDS, "score": np.arange(ROWS) / 2, "reason": pa.array(["r"] * ROWS)})
    (reader.study / "select/x").write_table("selected.parquet", table)
    origin: Any = None
    standing, peak = peak_bytes(lambda: _standing(reader, "select/x", origin, IDS[70_000]))
    assert (standing.rank, standing.score, standing.chosen) == (70_001, 35_000.0, ROWS)
    assert peak < 10 * ROWS
