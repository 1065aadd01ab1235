"""A choice as files: a table of the picks, the rows as JSONL, and the examples that a training run reads."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from instsel.choice.parts import LINE, PART, STORED, MergedParts, Part, locate, picked_rows, plan_parts, write_parts
from instsel.choice.picks import SELECTED, Picks
from instsel.errors import InputError
from instsel.io.store import Folder, space_errors
from instsel.study.results import RowCount, SelectResult
from instsel.training.dataset import SCHEMA

TABLE = SELECTED
ROWS = "selected.jsonl"
TRAINING_SET = "training.arrow"
PARTS = "parts"
"""Folder of what `write_rows` removes again."""

BATCH_BYTES = 2**26
"""Of a record batch of the training set, and of a row group of the table."""

RUN_ROWS = 1024
"""Rows of a run that are taken at a time."""

RunJobs = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterable[Any]]
"""Calls a function with each of some tuples of arguments, in this process or in others, and returns the results."""


def run_here(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Call a function with each tuple of arguments, one after the other."""
    return (function(*each) for each in arguments)


def write_rows(prepared: Folder, out: Folder, picks: Picks, run: RunJobs = run_here) -> SelectResult:
    """Filter the picked rows from their shards and write them in pick order.

    Neither this process nor one that `run` starts holds more than a part of the rows.

    Args:
        prepared: Folder of stage *prepare*.
        out: Where to write.
        picks: The rows, and what they were picked by.
        run: Where the work is done.

    Returns:
        What the choice is made of, and what it was made by.

    Raises:
        InputError: the pool has not all of these rows.
    """
    parts = out / PARTS
    parts.remove()
    try:
        jobs = [(prepared / "pool", parts, job) for job in plan_parts(prepared, picks.table)]
        written = [part for of_job in run(write_parts, jobs) for part in of_job]
        result: SelectResult = next(iter(run(merge_parts, [(prepared, out, picks, written)])))
    finally:
        parts.remove()
    return result


def merge_parts(prepared: Folder, out: Folder, picks: Picks, written: Sequence[Part]) -> SelectResult:
    """Write a choice from its part files, a few rows at a time.

    Args:
        prepared: Folder of stage *prepare*.
        out: Where to write, with the part files in `PARTS`.
        picks: The rows, and what they were picked by.
        written: The part files.

    Returns:
        What the choice is made of, and what it was made by.

    Raises:
        InputError: the shards are not those that the index is of.
    """
    chosen = _write_table(prepared, out, picks, MergedParts(out / PARTS, written, [*STORED, "id", LINE]))
    examples = MergedParts(out / PARTS, written, [*SCHEMA.names, "tokens"])
    training, validation = _Tokens(), _Tokens()
    with out.writer(TRAINING_SET) as stream, pa.ipc.new_file(stream, SCHEMA) as writer:
        batches = _Batches(writer.write_table, SCHEMA.empty_table())
        for rows in examples.repeated(chosen.rows if picks.lines is None else picks.lines):
            batches.add(training.add(rows).select(SCHEMA.names))
        for rows in validation_examples(prepared, picks.validation):
            batches.add(training.add(validation.add(rows)).select(SCHEMA.names))
        batches.finish()
    return SelectResult(
        rows=chosen.rows,
        tokens=chosen.tokens,
        sources=dict(sorted(chosen.sources.items())),
        tasks=dict(sorted(chosen.tasks.items())),
        mixture=picks.mixture,
        training=training.count() if training.rows != chosen.rows else None,
        validation=validation.count() if validation.rows else None,
        **picks.details,
    )


def _write_table(prepared: Folder, out: Folder, picks: Picks, parts: MergedParts) -> "_Chosen":
    """Write the table of a choice, and its rows as JSONL."""
    chosen = _Chosen()
    empty = _with_stored(picks.table.slice(0, 0), PART.empty_table())
    with out.writer(TABLE) as stream, out.writer(ROWS) as lines, pq.ParquetWriter(stream, empty.schema) as writer:
        groups = _Batches(writer.write_table, empty)
        for rows in parts.windows():
            of_picks = picks.table.slice(chosen.rows, len(rows))
            if rows["id"].to_pylist() != of_picks["id"].to_pylist():
                raise InputError(f"{prepared}/index.parquet is not of the shards beside it; run the study again")
            for line in rows[LINE]:
                lines.write(line.as_buffer())
            groups.add(_with_stored(of_picks, chosen.add(rows)))
        groups.finish()
    return chosen


def _with_stored(picks: pa.Table, rows: pa.Table) -> pa.Table:
    for name in STORED:
        picks = picks.append_column(name, rows[name])
    return picks


@dataclass
class _Tokens:
    """Counts rows and their tokens as they come."""

    rows: int = 0
    tokens: int = 0

    def add(self, rows: pa.Table) -> pa.Table:
        """Count rows, and return them."""
        self.rows += len(rows)
        self.tokens += pc.sum(rows["tokens"]).as_py() or 0
        return rows

    def count(self) -> RowCount:
        return RowCount(rows=self.rows, tokens=self.tokens)


@dataclass
class _Chosen(_Tokens):
    """Counts rows by source, and by source and task, too."""

    sources: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)

    def add(self, rows: pa.Table) -> pa.Table:
        for group in rows.group_by(["source", "task"]).aggregate([([], "count_all")]).to_pylist():
            self.sources[group["source"]] += group["count_all"]
            self.tasks[f"{group['source']}/{group['task'] or '-'}"] += group["count_all"]
        return super().add(rows)


class _Batches:
    """Writes tables in batches of about `BATCH_BYTES`; a few rows are one batch, and so is none."""

    def __init__(self, write: Callable[[pa.Table], None], empty: pa.Table) -> None:
        self._write, self._empty, self._count = write, empty, 0
        self._waiting: list[pa.Table] = []
        self._bytes = 0

    def add(self, table: pa.Table) -> None:
        """Write what waits once it is large enough."""
        self._waiting.append(table)
        self._bytes += table.nbytes
        if self._bytes >= BATCH_BYTES:
            self._flush()

    def finish(self) -> None:
        """Write what still waits."""
        if self._waiting or not self._count:
            self._flush()

    def _flush(self) -> None:
        self._write(pa.concat_tables([self._empty, *self._waiting]).combine_chunks())
        self._waiting, self._bytes = [], 0
        self._count += 1


def validation_examples(prepared: Folder, lines: Sequence[str]) -> Iterator[pa.Table]:
    """Yield validation rows, of the targets that are selected for, one for each id, a few at a time."""
    if not lines:
        return
    targets, wanted = prepared / "targets", pa.array(dict.fromkeys(lines), pa.string())
    columns = [*SCHEMA.names, "tokens"]
    tables = [(targets / target).read_table("validation.parquet", columns) for target in targets.names()]
    # Of a row that several targets have, the last one's.
    table = pa.concat_tables([rows.filter(pc.is_in(rows["id"], wanted)) for rows in reversed(tables)]).combine_chunks()
    yield from _taken(table, lines)


def _taken(table: pa.Table, ids: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows of a table by their ids, a few at a time."""
    known = table["id"].combine_chunks()
    for start in range(0, len(ids), RUN_ROWS):
        yield table.take(pc.index_in(pa.array(ids[start : start + RUN_ROWS], pa.string()), value_set=known))


def write_training_sets(prepared: Folder, folders: Mapping[str, Folder], sets: Mapping[str, Sequence[str]]) -> None:
    """Write the training set of several runs, with one look at each shard.

    The rows of all runs are laid out in a temporary file, which is mapped.

    Args:
        prepared: Folder of stage *prepare*.
        folders: Run -> where to write it.
        sets: Run -> ids of its rows, in order.

    Raises:
        InputError: the pool has not all of these rows.
    """
    ids = pa.array(dict.fromkeys(row for rows in sets.values() for row in rows), pa.string())
    with tempfile.TemporaryDirectory(prefix="instsel-") as scratch, space_errors(scratch):
        local = Folder.at(scratch)
        with local.writer(TRAINING_SET) as stream, pa.ipc.new_file(stream, SCHEMA) as writer:
            batches = _Batches(writer.write_table, SCHEMA.empty_table())
            for shard, rows, _ in locate(prepared, ids):
                for _, table in picked_rows(prepared / "pool", shard, rows, SCHEMA.names):
                    batches.add(table.select(SCHEMA.names))
            batches.finish()
        examples = local.read_table(TRAINING_SET)
        for name, chosen in sets.items():
            with folders[name].writer(TRAINING_SET) as stream, pa.ipc.new_file(stream, SCHEMA) as writer:
                batches = _Batches(writer.write_table, SCHEMA.empty_table())
                for table in _taken(examples, chosen):
                    batches.add(table)
                batches.finish()
