"""The rows of a study that is planned: how many, how long, and how to get at those that are timed."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from instsel.planning.rows import Pick, RowSet
from instsel.stages.actors import EXAMPLE
from instsel.storage import Folder
from instsel.study import Stage

KEPT = ["task", "messages", "input_ids", "labels", "tokens", "answer_tokens"]


@dataclass(frozen=True)
class Part:
    """A set of rows, and how to get at those whose lengths are known: a table with the columns `KEPT`."""

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
        groups: "source" and "task" -> rows of the pool that each has; a task is one of its source.
        reading: of rows of the pool.
        told: what was counted, for the user.
        seconds, disk, memory: what stage *prepare* will take; 0 where it is done.
    """

    pool: list[Part]
    validation: list[Part]
    heldout: list[Part]
    groups: Mapping[str, Sequence[float]]
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


def part_of(known: pa.Table, read: Callable[[], pa.Table], rows: int | None = None, shards: int = 1) -> Part:
    """Rows of which `known` has tokens and answer_tokens; a sample of `rows` rows where that is given."""
    lengths, answers = (known[name].to_numpy().astype(np.int64) for name in ("tokens", "answer_tokens"))
    return Part(RowSet(len(known) if rows is None else rows, shards, lengths, answers), read)


def examples(
    parts: Sequence[Part], picks: Sequence[Pick], columns: Sequence[str] = EXAMPLE
) -> list[list[dict[str, Any]]]:
    """The rows of each pick."""
    tables: dict[int, pa.Table] = {}
    found = []
    for number, places in picks:
        if number not in tables:
            tables[number] = parts[number].read()
        found.append(tables[number].take(pa.array(places)).select(list(columns)).to_pylist())
    return found


def group_sizes(tables: Iterable[tuple[pa.Table, float]]) -> dict[str, list[float]]:
    """Rows of every source and every task of it.

    Args:
        tables: columns source and task, and how many rows of the pool one of theirs stands for.
    """
    sources: dict[str, float] = defaultdict(float)
    tasks: dict[tuple[str, str | None], float] = defaultdict(float)
    for table, weight in tables:
        counted = table.select(["source", "task"]).group_by(["source", "task"]).aggregate([([], "count_all")])
        for row in counted.to_pylist():
            sources[row["source"]] += weight * row["count_all"]
            tasks[row["source"], row["task"]] += weight * row["count_all"]
    return {"source": list(sources.values()), "task": list(tasks.values())}


def prepared_rows(prepare: Stage) -> Rows:
    """The rows that stage *prepare* left."""
    folder = prepare.folder
    index = folder.read_table("index.parquet", ["shard", "source", "task", "tokens", "answer_tokens"])
    shards = index["shard"].combine_chunks().dictionary_encode()
    ends = (np.flatnonzero(np.diff(shards.indices.to_numpy())) + 1).tolist()
    names = shards.dictionary.to_pylist()
    pool = [
        _stored(folder / "pool", f"{name}.parquet", index.slice(start, end - start))
        for name, start, end in zip(names, [0, *ends], [*ends, len(index)], strict=True)
    ]
    reading = ray.get(_read_back.remote(folder / "pool", f"{names[0]}.parquet"))
    told = f"{len(index):,} rows of the pool, which are prepared already"
    validation, heldout = _targets(prepare, "validation"), _targets(prepare, "heldout")
    return Rows(pool, validation, heldout, group_sizes([(index, 1)]), reading, told)


def _targets(prepare: Stage, split: str) -> list[Part]:
    """In the order of the study file."""
    name = f"{split}.parquet"
    counted = prepare.manifest()["result"]["targets"]
    places = [prepare.folder / "targets" / target for target in prepare.config["targets"] if split in counted[target]]
    return [_stored(place, name, place.read_table(name, ["tokens", "answer_tokens"])) for place in places]


def _stored(folder: Folder, name: str, known: pa.Table) -> Part:
    return part_of(known, lambda: folder.read_table(name, KEPT))


@ray.remote
def _read_back(folder: Folder, name: str) -> Reading:
    return Reading.of(folder.read_table(name))
