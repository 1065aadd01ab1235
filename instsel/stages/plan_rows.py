"""The rows of a study that is planned: how many, how long, and how to get at those that are timed."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from instsel.data.batches import Example
from instsel.planning.rows import Pick, RowSet
from instsel.storage import Folder
from instsel.study import Stage


@dataclass(frozen=True)
class Part:
    """A set of rows, and how to get at those whose lengths are known (columns input_ids and labels)."""

    rows: RowSet
    read: Callable[[], pa.Table]


@dataclass(frozen=True)
class Reading:
    """Rows that were stored and read back: how many, their bytes in Parquet, those of their messages, and seconds.

    The bytes are without those of a file of one row.
    """

    rows: int = 0
    stored: int = 0
    messages: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Reading") -> "Reading":
        return Reading(
            self.rows + other.rows,
            self.stored + other.stored,
            self.messages + other.messages,
            self.seconds + other.seconds,
        )

    @classmethod
    def of(cls, table: pa.Table) -> "Reading":
        """Store examples in memory, as a shard is stored, and read them as *select* does."""
        buffer = parquet(table)
        began = time.monotonic()
        rows = pq.read_table(pa.BufferReader(buffer)).to_pylist()
        seconds = time.monotonic() - began
        messages = sum(len(json.dumps(row["messages"], ensure_ascii=False).encode()) for row in rows)
        return cls(len(rows), len(buffer) - len(parquet(table[:1])), messages, seconds)


@dataclass(frozen=True)
class Rows:
    """The rows of a study.

    Attributes:
        pool, validation, heldout: sets of rows, one a file or shard of the pool and one a target.
        reading: of rows of the pool.
        told: what was counted, for the user.
        seconds, disk, memory: what stage *prepare* will take; 0 where it is done.
    """

    pool: list[Part]
    validation: list[Part]
    heldout: list[Part]
    reading: Reading
    told: str
    seconds: float = 0.0
    disk: int = 0
    memory: int = 0


def parquet(table: pa.Table) -> pa.Buffer:
    """A table as the file that it would be."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue()


def part_of(lengths: np.ndarray, read: Callable[[], pa.Table], rows: int | None = None, shards: int = 1) -> Part:
    """Rows of these lengths; a sample of `rows` rows where that is given."""
    return Part(RowSet(len(lengths) if rows is None else rows, shards, lengths.astype(np.int64)), read)


def examples(parts: Sequence[Part], picks: Sequence[Pick]) -> list[list[Example]]:
    """The rows of each pick."""
    tables: dict[int, pa.Table] = {}
    found = []
    for number, places in picks:
        if number not in tables:
            tables[number] = parts[number].read()
        found.append(tables[number].take(pa.array(places)).select(["input_ids", "labels"]).to_pylist())
    return found


def prepared_rows(prepare: Stage) -> Rows:
    """The rows that stage *prepare* left."""
    folder = prepare.folder
    index = folder.read_table("index.parquet", ["shard", "tokens"])
    shards = index["shard"].combine_chunks().dictionary_encode()
    lengths, ends = index["tokens"].to_numpy(), np.flatnonzero(np.diff(shards.indices.to_numpy())) + 1
    names = shards.dictionary.to_pylist()
    pool = [
        _stored(folder / "pool", f"{name}.parquet", own)
        for name, own in zip(names, np.split(lengths, ends), strict=True)
    ]
    reading = ray.get(_read_back.remote(folder / "pool", f"{names[0]}.parquet"))
    told = f"{len(index):,} rows of the pool, which are prepared already"
    return Rows(pool, _targets(prepare, "validation"), _targets(prepare, "heldout"), reading, told)


def _targets(prepare: Stage, split: str) -> list[Part]:
    name = f"{split}.parquet"
    counted = prepare.manifest()["result"]["targets"]
    places = [prepare.folder / "targets" / target for target, counts in counted.items() if split in counts]
    return [_stored(place, name, place.read_table(name, ["tokens"])["tokens"].to_numpy()) for place in places]


def _stored(folder: Folder, name: str, lengths: np.ndarray) -> Part:
    return part_of(lengths, lambda: folder.read_table(name, ["input_ids", "labels"]))


@ray.remote
def _read_back(folder: Folder, name: str) -> Reading:
    return Reading.of(folder.read_table(name))
