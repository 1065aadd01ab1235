"""Rows of the pool in pick order, with few of them in memory: shards are filtered into part files, which are merged.

A part has rows of a few shards, sorted by rank, as one record batch for each *window* of ranks. A window of the
selection is read by taking its batch of every part that has one. What is written depends on the picks alone, not on
how many processes write parts.
"""

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from instsel.data.encode import EXAMPLES, StoredRow
from instsel.data.messages import whole_turns
from instsel.errors import InputError
from instsel.io.store import Folder, undamaged
from instsel.training.dataset import SCHEMA

STORED = ["source", "task", "tokens", "answer_tokens", "file", "line", "original_id", "extra"]
"""Columns of a stored row that the table of a choice has too."""

SHOWN = ["id", "original_id", "source", "task", "file", "line"]
"""Columns of a stored row that its line of JSON has too."""

PICKED = ["score", "reason"]
"""Columns of a pick that its line of JSON has too."""

LINE = "line_of_json"
PART_BYTES = 2**26
TEXTS = ["messages", "turn_keys", "tools"]
PART = pa.schema([("rank", pa.int64()), *(EXAMPLES.field(name) for name in STORED), *SCHEMA, (LINE, pa.binary())])
"""Columns of a part file."""

PART_COLUMNS = [*dict.fromkeys([*SCHEMA.names, *STORED, *TEXTS])]
"""Columns of a stored row that a part is made of."""

WRITING_MEMORY = 4 * PART_BYTES
"""Of a process that writes or merges parts, beside what it has loaded, about; longer rows need more."""

WINDOW_ROWS = 256
MOST_WINDOWS = 2048
JOB_SHARDS, JOB_ROWS = 64, 4096
INDEX_ROWS = 2**18
OPEN_PARTS = 256
"""Part files that are open at a time; systems allow 1,024 to a process."""


@dataclass(frozen=True)
class PartJob:
    """Picked rows of a few shards.

    Attributes:
        number: Of the job.
        window: Ranks of a window.
        picks: Shard -> its picked rows in the order of the shard: row (in the shard), rank, score, reason.
    """

    number: int
    window: int
    picks: Mapping[str, pa.Table]


@dataclass(frozen=True)
class Part:
    """A part file, and the window of each of its record batches."""

    name: str
    windows: Sequence[int]


def plan_parts(prepared: Folder, picks: pa.Table) -> list[PartJob]:
    """Split a choice into jobs of a few shards each.

    Args:
        prepared: Folder of stage *prepare*.
        picks: id, rank, score and reason of each pick, in order.

    Raises:
        InputError: the pool has not all of these rows.
    """
    located = locate(prepared, picks["id"])
    window = max(WINDOW_ROWS, -(-len(picks) // MOST_WINDOWS))
    jobs: list[PartJob] = []
    shards: dict[str, pa.Table] = {}
    waiting = 0
    for shard, rows, ranks in located:
        chosen = picks.select(PICKED).take(pa.array(ranks))
        table = pa.table({"row": rows, "rank": ranks, **{name: chosen[name] for name in PICKED}})
        shards[shard], waiting = table, waiting + len(rows)
        if len(shards) >= JOB_SHARDS or waiting >= JOB_ROWS:
            jobs.append(PartJob(len(jobs), window, shards))
            shards, waiting = {}, 0
    return [*jobs, PartJob(len(jobs), window, shards)] if shards else jobs


def locate(prepared: Folder, ids: pa.Array | pa.ChunkedArray) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Find rows of the pool by their ids, with a part of the index in memory at a time.

    Args:
        prepared: Folder of stage *prepare*.
        ids: Of the rows, each once.

    Returns:
        For each shard that has some of them: its name, int64 row numbers in it, ascending, and int64 positions in
        `ids`.

    Raises:
        InputError: the pool has not all of these rows.
    """
    wanted = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    first: dict[str, int] = {}
    by_shard: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    start = 0
    for batch in _batches(prepared, "index.parquet", ["id", "shard"], INDEX_ROWS):
        encoded = batch["shard"].dictionary_encode()
        names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
        for code, row in zip(*np.unique(codes, return_index=True), strict=True):
            first.setdefault(names[code], start + int(row))
        positions = pc.index_in(batch["id"], value_set=wanted)
        kept = np.flatnonzero(positions.is_valid().to_numpy(zero_copy_only=False))
        ranks = positions.take(pa.array(kept)).to_numpy().astype(np.int64)
        for code in np.unique(codes[kept]).tolist():
            of_shard = codes[kept] == code
            rows = kept[of_shard] + start - first[names[code]]
            by_shard.setdefault(names[code], []).append((rows, ranks[of_shard]))
        start += len(batch)
    located = [
        (shard, np.concatenate([rows for rows, _ in parts]), np.concatenate([ranks for _, ranks in parts]))
        for shard, parts in by_shard.items()
    ]
    missing = len(wanted) - sum(len(rows) for _, rows, _ in located)
    if missing:
        raise InputError(
            f"{prepared}/index.parquet lacks {missing} of {len(wanted)} rows that were chosen; run the study again"
        )
    return located


def picked_rows(pool: Folder, shard: str, rows: np.ndarray, columns: list[str]) -> Iterator[tuple[slice, pa.Table]]:
    """Yield some rows of a shard, a batch at a time, each with the part of `rows` that it has.

    Args:
        pool: Folder of the shards.
        shard: Name of one.
        rows: int64 row numbers in it, ascending.
        columns: Of the rows.

    Raises:
        InputError: the shard has fewer rows, or is damaged.
    """
    start = done = 0
    for batch in _batches(pool, f"{shard}.parquet", columns, WINDOW_ROWS):
        end = int(np.searchsorted(rows, start + len(batch)))
        if end > done:
            yield slice(done, end), pa.Table.from_batches([batch]).take(pa.array(rows[done:end] - start))
        start, done = start + len(batch), end
    if done < len(rows):
        raise InputError(f"{pool}/{shard}.parquet has {start} rows, fewer than the index says; run the study again")


def write_parts(pool: Folder, parts: Folder, job: PartJob) -> list[Part]:
    """Write the picked rows of a few shards, sorted by rank.

    Args:
        pool: Folder of the shards.
        parts: Where to write.
        job: What is picked.
    """
    written: list[Part] = []
    waiting: list[pa.Table] = []
    for shard, picks in job.picks.items():
        for some, rows in picked_rows(pool, shard, picks["row"].to_numpy(), PART_COLUMNS):
            waiting.append(_with_lines(rows, picks.slice(some.start, len(rows))))
            if sum(table.nbytes for table in waiting) >= PART_BYTES:
                written.append(_write_part(parts, f"{job.number:06d}-{len(written)}.arrow", job.window, waiting))
                waiting = []
    if waiting:
        written.append(_write_part(parts, f"{job.number:06d}-{len(written)}.arrow", job.window, waiting))
    return written


def _write_part(parts: Folder, name: str, window: int, tables: Sequence[pa.Table]) -> Part:
    table = pa.concat_tables(tables).combine_chunks().sort_by("rank")
    windows, starts = np.unique(table["rank"].to_numpy() // window, return_index=True)
    with parts.writer(name) as stream, pa.ipc.new_file(stream, table.schema) as writer:
        for start, end in zip(starts, [*starts[1:], len(table)], strict=True):
            writer.write_batch(table.slice(start, end - start).combine_chunks().to_batches()[0])
    return Part(name, windows.tolist())


def _with_lines(rows: pa.Table, picks: pa.Table) -> pa.Table:
    """Return what is kept of rows: their rank, the columns of table and training set, and their lines of JSON."""
    texts = rows.select([*dict.fromkeys([*SHOWN, *TEXTS, "extra"])]).to_pylist()
    lines = [
        {**_whole_row(row), **{key: row[key] for key in SHOWN}, **pick}
        for row, pick in zip(texts, picks.select(PICKED).to_pylist(), strict=True)
    ]
    written = [(json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass") for line in lines]
    columns = {name: rows[name] for name in PART.names if name not in ("rank", LINE)}
    return pa.table({"rank": picks["rank"], **columns, LINE: pa.array(written, pa.binary())}, PART)


def _whole_row(row: StoredRow) -> dict[str, object]:
    """Return a row with everything that it had: turns with all their keys, tools, and its other columns."""
    whole: dict[str, object] = {"messages": whole_turns(row["messages"], row["turn_keys"])}
    for name, text in (("tools", row["tools"]), ("extra", row["extra"])):
        if text is not None:
            whole[name] = json.loads(text)
    return whole


class MergedParts:
    """Part files of a choice, read in pick order, a window at a time."""

    def __init__(self, parts: Folder, written: Sequence[Part], columns: Sequence[str]) -> None:
        """Take part files.

        Args:
            parts: Their folder.
            written: All of them.
            columns: Of the rows, that are read.
        """
        self._parts, self._columns = parts, list(columns)
        self._batches: dict[int, list[tuple[str, int]]] = {}
        for part in written:
            for number, window in enumerate(part.windows):
                self._batches.setdefault(window, []).append((part.name, number))
        self._open: OrderedDict[str, pa.ipc.RecordBatchFileReader] = OrderedDict()
        fields = [PART.get_field_index(name) for name in dict.fromkeys(["rank", *columns])]
        self._options = pa.ipc.IpcReadOptions(included_fields=sorted(fields))

    def windows(self) -> Iterator[pa.Table]:
        """Yield all rows in pick order.

        Raises:
            InputError: a part file is damaged.
        """
        for window in sorted(self._batches):
            table = pa.Table.from_batches([self._batch(name, number) for name, number in self._batches[window]])
            yield table.combine_chunks().sort_by("rank").select(self._columns)

    def repeated(self, rows: int) -> Iterator[pa.Table]:
        """Yield so many rows: all in pick order, over and over."""
        left = rows if self._batches else 0
        while left:
            for table in self.windows():
                yield table.slice(0, left)
                left = max(0, left - len(table))
                if not left:
                    return

    def _batch(self, name: str, number: int) -> pa.RecordBatch:
        with undamaged(f"{self._parts}/{name}"):
            if name not in self._open:
                if len(self._open) >= OPEN_PARTS:
                    self._open.popitem(last=False)
                stream = self._parts.open(name)
                self._open[name] = pa.ipc.open_file(stream, options=self._options)
            self._open.move_to_end(name)
            return self._open[name].get_batch(number)


def _batches(folder: Folder, name: str, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield a Parquet file by batches of rows."""
    with undamaged(f"{folder}/{name}"), folder.open(name) as stream:
        # From a store all columns are fetched at once, for each read of one waits.
        file = pq.ParquetFile(stream, pre_buffer=not folder.is_local)
        yield from file.iter_batches(batch_size=rows, columns=columns)
