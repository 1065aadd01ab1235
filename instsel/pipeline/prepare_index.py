"""The end of stage *prepare*: copies are dropped from the shards, and the pool gets its index.

One task looks at all shards, a few at a time. What it keeps of every row is its id as a number, 8 bytes.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from instsel.data.encode import DUPLICATE, EXAMPLES, REJECTED, first_occurrences, numeric_ids, reasons, reject
from instsel.io.store import Folder
from instsel.study.results import FileCount, PoolResult, RowCount

COPIES, NEAR_COPIES = "duplicates.parquet", "near_duplicates.parquet"
# File and line do not tell apart two splits of a dataset, or a file that is given twice.
COPY = REJECTED.append(pa.field("shard", pa.string()))
# Of a shard's Parquet file, what its encoder counted.
UNREAD_KEY = b"unread"
REMEMBERED = ["id", "source", "task", "tokens", "answer_tokens"]
INDEX = pa.schema([EXAMPLES.field(name) for name in REMEMBERED]).append(pa.field("shard", pa.string()))
GROUP_ROWS = 100_000
# A store behind a network answers several at once.
READERS = 8
SHARDS_AT_ONCE = 8 * READERS


def find_exact_copies(folder: Folder, shards: Sequence[str]) -> None:
    """Write which rows of the shards are exact duplicates of earlier ones, unless that was done.

    Args:
        folder: of the stage.
        shards: their names, in the order of the files.
    """
    with ThreadPoolExecutor(READERS) as readers:
        if not (folder / "rejected").exists(COPIES):
            write_tables(folder / "rejected", COPIES, COPY, _copies(folder / "pool", shards, readers))


def finish_pool(folder: Folder, shards: Sequence[str], files: Sequence[str]) -> tuple[PoolResult, int]:
    """Drop exact duplicates from the shards, and near-copies that are to be dropped, and write the index of the pool.

    Args:
        folder: of the stage.
        shards: their names, in the order of the files.
        files: names of the pool's files, in their order; a shard's name starts with the number of its file.

    Returns:
        What the manifest says of the pool, and the peak memory of this process, bytes.
    """
    from instsel.runtime.session import peak_memory

    find_exact_copies(folder, shards)
    rows, rejected = folder / "pool", folder / "rejected"
    with ThreadPoolExecutor(READERS) as readers:
        lines = _lines_by_shard(rejected)
        pool_counts = _Counts(files)
        tables = _in_order(partial(_drop_copies, rows, lines), shards, readers)
        write_tables(folder, "index.parquet", INDEX, map(pool_counts.add, tables))
        rejected_rows: Counter[str] = Counter()
        for reason_counts in _in_order(partial(_reasons_by_file, rejected), rejected.names(), readers):
            for file, of_file in reason_counts.items():
                rejected_rows.update(of_file)
                pool_counts.files[files[file]].rejected.update(of_file)
    pool = PoolResult(
        rows=pool_counts.rows,
        tokens=pool_counts.tokens,
        shards=pool_counts.shards,
        sources={name: RowCount(**count) for name, count in pool_counts.sources.items()},
        rejected=dict(rejected_rows.most_common()),
        files=pool_counts.file_counts(),
    )
    return pool, peak_memory()


class _Counts:
    """What the pool has, summed up shard by shard."""

    def __init__(self, files: Sequence[str]) -> None:
        self.rows, self.tokens = 0, 0
        self.shards: list[str] = []
        self.sources: dict[str, dict[str, int]] = {}
        self.names = files
        self.files = {file: _FileCounts() for file in files}

    def add(self, index: pa.Table) -> pa.Table:
        """Count the index of a shard, and return it."""
        if len(index):
            shard = index["shard"][0].as_py()
            self.shards.append(shard)
            file = self.files[self.names[_file_number(shard)]]
            file.rows += len(index)
            file.unread.update(json.loads((index.schema.metadata or {}).get(UNREAD_KEY, b"{}")))
        for group in index.group_by("source").aggregate([("id", "count"), ("tokens", "sum")]).to_pylist():
            source = self.sources.setdefault(group["source"], {"rows": 0, "tokens": 0})
            source["rows"] += group["id_count"]
            source["tokens"] += group["tokens_sum"]
            self.tokens += group["tokens_sum"]
        self.rows += len(index)
        return index.replace_schema_metadata(None)

    def file_counts(self) -> dict[str, FileCount]:
        """Return what each file has, in the order of the study file."""
        return {
            name: FileCount(
                rows=file.rows, rejected=dict(file.rejected.most_common()), unread=dict(sorted(file.unread.items()))
            )
            for name, file in self.files.items()
        }


@dataclass
class _FileCounts:
    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)


def _reasons_by_file(rejected: Folder, name: str) -> dict[int, dict[str, int]]:
    """Count the reasons of a table of rejected rows by the number of the file that they are of."""
    if name not in (COPIES, NEAR_COPIES):
        return {_file_number(name): reasons(rejected.read_table(name, ["reason"]))}
    table = rejected.read_table(name, ["shard", "reason"])
    numbers = np.asarray([_file_number(shard) for shard in table["shard"].to_pylist()], np.int64)
    return {number: reasons(table.filter(pa.array(numbers == number))) for number in np.unique(numbers).tolist()}


def _file_number(shard: str) -> int:
    return int(shard.partition("-")[0])


def _copies(pool: Folder, shards: Sequence[str], readers: ThreadPoolExecutor) -> Iterator[pa.Table]:
    """Yield the rows whose id is that of an earlier row, as rejected rows."""
    ids = list(_in_order(lambda shard: numeric_ids(pool.read_table(f"{shard}.parquet", ["id"])["id"]), shards, readers))
    is_copy = ~first_occurrences(np.concatenate(ids))
    masks = zip(shards, np.split(is_copy, np.cumsum([len(of_shard) for of_shard in ids])[:-1]), strict=True)
    with_copies = [(shard, mask) for shard, mask in masks if mask.any()]
    yield from _in_order(partial(_rejected_rows, pool), with_copies, readers)


def _rejected_rows(pool: Folder, of: tuple[str, np.ndarray]) -> pa.Table:
    shard, mask = of
    table = reject(pool.read_table(f"{shard}.parquet", ["messages", "file", "line"]).filter(pa.array(mask)), DUPLICATE)
    return table.append_column(COPY.field("shard"), pa.array([shard] * len(table), pa.string()))


def _lines_by_shard(rejected: Folder) -> dict[str, pa.Array]:
    files = [name for name in (COPIES, NEAR_COPIES) if rejected.exists(name)]
    copies = pa.concat_tables([rejected.read_table(name, ["shard", "line"]) for name in files])
    grouped = copies.group_by("shard").aggregate([("line", "list")])
    lines = grouped["line_list"].combine_chunks()
    return {shard: lines[number].values for number, shard in enumerate(grouped["shard"].to_pylist())}


def _drop_copies(pool: Folder, lines: dict[str, pa.Array], shard: str) -> pa.Table:
    """Write a shard without its copies, unless that was done; return its index."""
    name = f"{shard}.parquet"
    table = pool.read_table(name, [*REMEMBERED, "line"])
    if shard in lines:
        kept = pc.invert(pc.is_in(table["line"], lines[shard]))
        if not pc.all(kept).as_py():
            pool.write_table(name, pool.read_table(name).filter(kept))
            table = table.filter(kept)
    return table.select(REMEMBERED).append_column(INDEX.field("shard"), pa.array([shard] * len(table), pa.string()))


def _in_order(read: Callable[[Any], Any], items: Sequence[Any], readers: ThreadPoolExecutor) -> Iterator[Any]:
    """Yield what `read` returns for the items, in their order, reading several at once and none far ahead."""
    for start in range(0, len(items), SHARDS_AT_ONCE):
        yield from readers.map(read, items[start : start + SHARDS_AT_ONCE])


def write_tables(folder: Folder, name: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write tables as one Parquet file, as they come, in groups of about `GROUP_ROWS` rows."""
    with folder.writer(name) as stream, pq.ParquetWriter(stream, schema) as writer:
        waiting = [schema.empty_table()]
        for table in tables:
            waiting.append(table)
            if sum(map(len, waiting)) >= GROUP_ROWS:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))


def shard_ends(prepared: Folder) -> tuple[list[str], NDArray[np.int64]]:
    """Return the shards of the index, in whose order its rows stand, and its number of rows through the end of each."""
    column = prepared.read_table("index.parquet", ["shard"])["shard"]
    runs = pc.run_end_encode(column.combine_chunks(), run_end_type=pa.int64())
    return runs.values.to_pylist(), np.asarray(runs.run_ends, np.int64)
