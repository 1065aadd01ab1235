"""The rows of a study that is planned: how many, how long, and how to read those that are timed."""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from instsel.choice.budget import Budget
from instsel.choice.output import write_rows
from instsel.choice.parts import PART_COLUMNS, WINDOW_ROWS
from instsel.choice.picks import Picks
from instsel.config.study import StudyConfig
from instsel.io.store import Folder
from instsel.planner.rows import Pick
from instsel.study.estimates import Counts, RowSet
from instsel.study.folder import StageFolder
from instsel.study.results import PrepareResult, RowCount

KEPT = ["task", "messages", "input_ids", "labels", "tokens", "answer_tokens"]
CHOSEN_BYTES = 256
"""A chosen row in the files of *select*, messages and tokens left out."""


@dataclass(frozen=True)
class Part:
    """A set of rows, and how to read those whose lengths are known: a table with the columns `KEPT`."""

    rows: RowSet
    read: Callable[[], pa.Table]


@dataclass(frozen=True)
class Reading:
    """Rows that were stored and read back: how many, their bytes in Parquet, those of their messages, and seconds.

    The bytes are without those of a file with a single row. `writing` has the seconds to write them as a
    selection.
    """

    rows: int = 0
    stored: int = 0
    messages: int = 0
    seconds: float = 0.0
    writing: float = 0.0

    def __add__(self, other: "Reading") -> "Reading":
        return Reading(
            self.rows + other.rows,
            self.stored + other.stored,
            self.messages + other.messages,
            self.seconds + other.seconds,
            self.writing + other.writing,
        )

    @classmethod
    def measure(cls, table: pa.Table) -> "Reading":
        """Store examples in memory, as a shard is stored, and read them as *select* does."""
        buffer = parquet(table)
        start = time.monotonic()
        for _ in pq.ParquetFile(pa.BufferReader(buffer)).iter_batches(batch_size=WINDOW_ROWS, columns=[*PART_COLUMNS]):
            pass
        seconds = time.monotonic() - start
        writing = _writing_seconds(table)
        messages = sum(len(json.dumps(turns, ensure_ascii=False).encode()) for turns in table["messages"].to_pylist())
        return cls(len(table), len(buffer) - len(parquet(table[:1])), messages, seconds, writing)


def _writing_seconds(table: pa.Table) -> float:
    """Time how long a selection of all rows of a table takes to write, in pick order."""
    ids = pa.array([str(row) for row in range(len(table))], pa.string())
    table = table.set_column(table.schema.get_field_index("id"), "id", ids)
    count = len(ids)
    columns = {
        "id": ids,
        "rank": np.arange(count),
        "score": np.zeros(count),
        "reason": pa.array([""] * count, pa.string()),
    }
    with tempfile.TemporaryDirectory(prefix="instsel-") as scratch:
        prepared = Folder.at(scratch) / "prepare"
        (prepared / "pool").write_table("00000-000000.parquet", table)
        shards = pa.array(["00000-000000"] * count, pa.string())
        prepared.write_table("index.parquet", pa.table({"id": ids, "shard": shards}))
        start = time.monotonic()
        write_rows(prepared, Folder.at(scratch) / "select", Picks(pa.table(columns)))
        return time.monotonic() - start


@dataclass(frozen=True)
class Preparation:
    """What stage *prepare* will take; nothing where it is done."""

    seconds: float = 0.0
    disk: int = 0
    memory: int = 0


@dataclass(frozen=True)
class Sample:
    """The rows of a study, of which some can be read.

    Attributes:
        pool, validation, heldout: sets of rows, one a file or shard of the pool and one a target.
        groups: "source" and "task" -> rows of the pool that each has; a task is one of its source.
        reading: of rows of the pool.
        summary: what was counted, for the user.
        preparation: of the rows.
    """

    pool: list[Part]
    validation: list[Part]
    heldout: list[Part]
    groups: Mapping[str, Sequence[float]]
    reading: Reading
    summary: str
    preparation: Preparation = Preparation()

    def counts(self, config: StudyConfig) -> Counts:
        """Return what stages make their estimates of.

        Raises:
            InputError: the budget does not fit the pool.
        """
        pool, validation, heldout = (
            [part.rows for part in parts] for parts in (self.pool, self.validation, self.heldout)
        )
        targets = zip(config.targets.values(), self.validation, strict=True)
        return Counts(
            pool,
            validation,
            heldout,
            _chosen(config, pool),
            subtasks=sum(_subtasks(part) if target.subtask else 1 for target, part in targets),
            groups=self.groups,
            chosen_bytes=CHOSEN_BYTES + self.reading.messages / self.reading.rows,
            read_seconds=self.reading.seconds / self.reading.rows,
            chosen_seconds=self.reading.writing / self.reading.rows,
            prepare_seconds=self.preparation.seconds,
            prepare_bytes=self.preparation.disk,
            prepare_memory=self.preparation.memory,
        )


def _subtasks(part: Part) -> int:
    return len(set(part.read()["task"].to_pylist()))


def _chosen(config: StudyConfig, pool: Sequence[RowSet]) -> int:
    """Return the rows of the largest selection; of a budget of tokens as many as it holds of mean length."""
    whole = RowCount(rows=sum(part.rows for part in pool), tokens=sum(part.tokens for part in pool))
    budget = Budget(config.selection.largest_budget, config.selection.unit).of(whole)
    return max(1, int(budget.amount * whole.rows / (whole.rows if budget.unit == "rows" else whole.tokens)))


def parquet(table: pa.Table) -> pa.Buffer:
    """Return a table as the file that it would be."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue()


def part_of(known: pa.Table, read: Callable[[], pa.Table], rows: int | None = None, shards: int = 1) -> Part:
    """Return rows of which `known` has tokens and answer_tokens; a sample of `rows` rows where that is given."""
    lengths, answers = (known[name].to_numpy().astype(np.int64) for name in ("tokens", "answer_tokens"))
    return Part(RowSet(len(known) if rows is None else rows, shards, lengths, answers), read)


def examples(parts: Sequence[Part], picks: Sequence[Pick], columns: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Return the rows of each pick."""
    tables = {number: parts[number].read() for number in {number for number, _ in picks}}
    return [tables[number].take(pa.array(indices)).select(list(columns)).to_pylist() for number, indices in picks]


def group_sizes(tables: Iterable[tuple[pa.Table, float]]) -> dict[str, list[float]]:
    """Count the rows of every source and every task of it.

    Args:
        tables: columns source and task, and how many rows of the pool a row of theirs represents.
    """
    sources: dict[str, float] = defaultdict(float)
    tasks: dict[tuple[str, str | None], float] = defaultdict(float)
    for table, weight in tables:
        counted = table.select(["source", "task"]).group_by(["source", "task"]).aggregate([([], "count_all")])
        for row in counted.to_pylist():
            sources[row["source"]] += weight * row["count_all"]
            tasks[row["source"], row["task"]] += weight * row["count_all"]
    return {"source": list(sources.values()), "task": list(tasks.values())}


def prepared_rows(prepare: StageFolder) -> Sample:
    """Return the rows that stage *prepare* left."""
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
    summary = f"{len(index):,} rows of the pool, which are prepared already"
    validation, heldout = _stored_targets(prepare, "validation"), _stored_targets(prepare, "heldout")
    return Sample(pool, validation, heldout, group_sizes([(index, 1)]), reading, summary)


def _stored_targets(prepare: StageFolder, split: str) -> list[Part]:
    """Return the rows of a split, in the order of the study file."""
    name = f"{split}.parquet"
    splits = prepare.result(PrepareResult).targets
    folders = [prepare.folder / "targets" / target for target in splits if split in splits[target]]
    return [_stored(folder, name, folder.read_table(name, ["tokens", "answer_tokens"])) for folder in folders]


def _stored(folder: Folder, name: str, known: pa.Table) -> Part:
    return part_of(known, lambda: folder.read_table(name, KEPT))


@ray.remote
def _read_back(folder: Folder, name: str) -> Reading:
    return Reading.measure(folder.read_table(name))
