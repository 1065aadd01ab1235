"""Stage *warmup* draws its rows from the shards that have some of them, and reads no other."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pytest
from fsspec.implementations.local import LocalFileSystem

from instsel.io.store import Folder
from instsel.pipeline.prepare_index import INDEX
from instsel.pipeline.warmup import TRAINING_SET, _write_training_set
from instsel.selection import random

SIZES = [3, 1, 40, 7, 12, 1]


class Opened(pafs.FSSpecHandler):
    """Files on a disk, and which were opened."""

    def __init__(self) -> None:
        super().__init__(LocalFileSystem())
        self.names: set[str] = set()

    def open_input_file(self, path: str) -> Any:
        self.names.add(Path(path).stem)
        return super().open_input_file(path)


@pytest.fixture
def pool(tmp_path: Path) -> pa.Table:
    """What a prepared pool has, in the order of its index, below `tmp_path`."""
    folder, row, tables, index = Folder.at(tmp_path), 0, [], []
    for number, size in enumerate(SIZES):
        names = [f"{(row + each) * 7919 % 1009:016x}" for each in range(size)]
        tokens = [[row + each] * (each + 1) for each in range(size)]
        table = pa.table({"id": names, "input_ids": tokens, "labels": tokens, "file": ["f"] * size})
        (folder / "pool").write_table(f"00000-{number:06d}.parquet", table)
        tables.append(table.select(["id", "input_ids", "labels"]))
        index += [{"id": name, "tokens": 1, "shard": f"00000-{number:06d}"} for name in names]
        row += size
    folder.write_table("index.parquet", pa.Table.from_pylist(index, schema=INDEX))
    return pa.concat_tables(tables)


@pytest.mark.parametrize("count", [1, 2, 5, 30, sum(SIZES)])
@pytest.mark.parametrize("seed", [0, 1])
def test_fault_19_only_shards_with_drawn_rows_are_read(pool: pa.Table, tmp_path: Path, count: int, seed: int) -> None:
    files = Opened()
    prepared = Folder(pafs.PyFileSystem(files), str(tmp_path))
    _write_training_set(prepared, Folder.at(tmp_path / "warmup"), count, seed)
    written = Folder.at(tmp_path / "warmup").read_table(TRAINING_SET)
    drawn = np.sort(random.select(len(pool), count, seed=seed).indices)
    assert written.equals(pool.take(pa.array(drawn)))
    shards = np.searchsorted(np.cumsum(SIZES), drawn, side="right")
    assert files.names == {"index", *(f"00000-{number:06d}" for number in np.unique(shards))}


def test_the_file_is_that_of_earlier_versions(pool: pa.Table, tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    _write_training_set(folder, folder / "warmup", 20, 3)
    index = folder.read_table("index.parquet", ["id", "shard"])
    wanted = index.take(pa.array(np.sort(random.select(len(index), 20, seed=3).indices)))
    tables = []
    for shard in dict.fromkeys(wanted["shard"].to_pylist()):
        table = (folder / "pool").read_table(f"{shard}.parquet", ["id", "input_ids", "labels"])
        tables.append(table.filter(pc.is_in(table["id"], wanted["id"].combine_chunks())))
    folder.write_table("earlier.arrow", pa.concat_tables(tables))
    assert (folder / "warmup").read(TRAINING_SET) == folder.read("earlier.arrow")
