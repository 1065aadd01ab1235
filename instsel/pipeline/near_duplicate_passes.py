"""The passes that find near-copies in the shards of stage *prepare*: each writes a file an item, and none twice."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from instsel.data.encode import SHOWN, near_copy_reason, numeric_ids
from instsel.data.keys import REASONING
from instsel.data.messages import beside_words, whole_turns
from instsel.data.near_duplicates import (
    BANDS,
    SIGNATURE_VERSION,
    Pairs,
    Rows,
    band_keys,
    candidate_pairs,
    distinct_pairs,
    is_sampled,
    merge_labels,
    near_copies,
    row_key,
    sampled_ngrams,
    template_ngrams,
)
from instsel.data.row_changes import RowWords, row_words
from instsel.data.words import KnownHashes
from instsel.io.store import Folder
from instsel.pipeline.prepare_index import COPIES, COPY, NEAR_COPIES, write_tables

TABLE = "near_duplicates.parquet"
KEYS = BANDS + 2
"""Keys of a row: its bands, all words, and the words of template n-grams."""
CONTENT = ["messages", "turn_keys", "tools"]
"""Columns of a shard that rows are compared by."""
COMPARED_KEYS = (*REASONING, "name")
"""Keys of a turn whose text is compared with its own."""
# Signatures of another version of the library are not continued.
SCRATCH = f"near_duplicates-{SIGNATURE_VERSION}"

LABELS = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("file", pa.string()), ("line", pa.int64()), ("shard", pa.string())]
)
WORDS = pa.schema(
    [("hashes", pa.list_(pa.uint64())), ("kinds", pa.list_(pa.uint8())), ("is_form", pa.list_(pa.bool_()))]
)
CANDIDATE = pa.schema([("row", pa.int64()), *LABELS, ("text", pa.string()), *WORDS, ("beside", pa.uint64())])
NEAR_COPY_ROWS = pa.schema(
    [("row", pa.int64()), *LABELS, ("text", pa.string()), ("similarity", pa.float64())]
    + [pa.field(f"kept_{label.name}", label.type) for label in (*LABELS, pa.field("text", pa.string()))]
)
"""A near-copy with its similarity to the row that stays, and where both are."""
# Columns of it that the table of near-copies does not have.
UNWRITTEN = ("row", "shard", "kept_shard")
COPIES_AT_ONCE = 100_000


@dataclass(frozen=True)
class Shard:
    """A shard of the pool: its name, and the numbers of its rows, `first` to `end`."""

    name: str
    first: int
    end: int


@dataclass(frozen=True)
class Work:
    """What the passes know.

    Attributes:
        folder: of the stage.
        groups: the shards of the pool, in groups.
        threshold: least similarity of near-copies.
        drop: whether they are to be rejected.
        band_tasks: tasks that the buckets of each band are dealt out to.
        part_rows: candidates in a part, about.
    """

    folder: Folder
    groups: Sequence[Sequence[Shard]]
    threshold: float
    drop: bool
    band_tasks: int
    part_rows: int

    @property
    def scratch(self) -> Folder:
        return self.folder / SCRATCH

    @property
    def rows(self) -> int:
        """Rows of the pool, exact copies not counted."""
        return self.groups[-1][-1].end if self.groups else 0

    def read(self, shard: Shard, columns: Sequence[str]) -> pa.Table:
        """Read the rows of a shard that are no exact copies."""
        table = (self.folder / "pool").read_table(f"{shard.name}.parquet", [*columns, "line"])
        lines = self._exact_copies.filter(pc.equal(self._exact_copies["shard"], shard.name))["line"]
        return table.filter(pc.invert(pc.is_in(table["line"], lines.combine_chunks())))

    def templates(self) -> KnownHashes:
        return KnownHashes(self.scratch.read_table("template.arrow")["hash"].to_numpy())

    @cached_property
    def _exact_copies(self) -> pa.Table:
        return (self.folder / "rejected").read_table(COPIES, ["shard", "line"])


def sample_group(work: Work, group: int) -> None:
    """Write key and n-grams of the rows that template n-grams are counted in."""
    folder, name = work.scratch / "sample", f"{group:06d}.arrow"
    if folder.exists(name):
        return
    keys, ngrams = list[int](), list[NDArray[np.uint64]]()
    for shard in work.groups[group]:
        table = work.read(shard, ["id", *CONTENT])
        for row in _words(table.filter(pa.array(is_sampled(numeric_ids(table["id"]), work.rows)))):
            keys.append(row_key(row))
            ngrams.append(sampled_ngrams(row))
    columns = {"key": pa.array(keys, pa.uint64()), "ngrams": _lists(ngrams, pa.uint64())}
    folder.write_table(name, pa.table(columns))


def count_templates(work: Work, _: int) -> None:
    """Write the template n-grams."""
    folder = work.scratch / "sample"
    if work.scratch.exists("template.arrow"):
        return
    sample = pa.concat_tables([folder.read_table(name) for name in folder.names()])
    hashes = template_ngrams(sample["key"].to_numpy(), [each.values.to_numpy() for each in sample["ngrams"]])
    work.scratch.write_table("template.arrow", pa.table({"hash": hashes}))


def sign_group(work: Work, group: int) -> None:
    """Write the keys of the rows of a group: those of the bands, that of all words, and that of template n-grams."""
    folder, name = work.scratch / "bands", f"{group:06d}.arrow"
    if folder.exists(name):
        return
    templates = work.templates()
    tables = []
    for shard in work.groups[group]:
        rows = list(_words(work.read(shard, CONTENT), templates))
        keys = band_keys([row.content_shingles for row in rows])
        whole = np.fromiter((row_key(row) for row in rows), dtype=np.uint64, count=len(rows))
        forms = np.fromiter((row.form_key for row in rows), dtype=np.uint64, count=len(rows))
        tables.append(pa.table({_band(number): key for number, key in enumerate([*keys.T, whole, forms])}))
    folder.write_table(name, pa.concat_tables(tables).combine_chunks())


def pair_band(work: Work, item: int) -> None:
    """Write the candidates of a band or of another key, or a share of these."""
    folder, name = work.scratch / "pairs", f"{item:06d}.arrow"
    if folder.exists(name):
        return
    band, share = divmod(item, work.band_tasks)
    tie = (band + 1) % BANDS if band < BANDS else band
    bands = work.scratch / "bands"
    tables = [bands.read_table(file, sorted({_band(band), _band(tie)})) for file in bands.names()]
    keys, ties = (
        np.concatenate([table[_band(number)].to_numpy() for table in tables] or [np.empty(0, np.uint64)])
        for number in (band, tie)
    )
    rows = np.flatnonzero(keys % np.uint64(work.band_tasks) == share)
    _write_pairs(folder, name, candidate_pairs(keys[rows], ties[rows], rows))


def form_parts(work: Work, _: int) -> None:
    """Write which rows are candidates, and the part of each: connected rows are in one part.

    Connected rows that are more than a part are divided in the order of the pool, and not compared across.
    """
    if work.scratch.exists("parts.json"):
        return
    labels: Rows = np.arange(work.rows)
    pairs = work.scratch / "pairs"
    for name in pairs.names():
        labels = merge_labels(labels, _read_pairs(pairs, name))
    sizes = np.bincount(labels, minlength=work.rows)
    rows = np.flatnonzero(sizes[labels] > 1)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    index = np.arange(len(rows))
    starts = np.flatnonzero(np.diff(labels[rows], prepend=-1))
    start = np.repeat(starts, np.diff(np.append(starts, len(rows))))
    parts = np.where(sizes[labels[rows]] > work.part_rows, index, start) // work.part_rows
    order = np.argsort(rows)
    numbers = np.unique(parts, return_inverse=True)[1] if len(parts) else parts
    work.scratch.write_table("parts.arrow", pa.table({"row": rows[order], "part": numbers[order]}))
    work.scratch.write_json("parts.json", {"parts": int(numbers.max(initial=-1)) + 1})


def write_words(work: Work, group: int) -> None:
    """Write the words of the candidates in a group of shards, a batch a part."""
    folder, name = work.scratch / "words", f"{group:06d}.arrow"
    if folder.exists(name):
        return
    templates, parts = work.templates(), work.scratch.read_table("parts.arrow")
    candidates = [_candidates(work, shard, parts, templates) for shard in work.groups[group]]
    table = pa.concat_tables(candidates)
    part_of = pc.index_in(table["row"], parts["row"].combine_chunks())
    part = parts["part"].take(part_of).to_numpy() if len(table) else np.empty(0, dtype=np.int64)
    numbers = np.unique(part).tolist()
    # Where a part is, is said once, so that its reader passes over the others.
    schema = CANDIDATE.with_metadata({"parts": json.dumps(numbers)})
    with folder.writer(name) as stream, pa.ipc.new_file(stream, schema) as writer:
        for number in numbers:
            of_part = table.filter(pa.array(part == number)).combine_chunks()
            writer.write_table(of_part.cast(schema), max_chunksize=max(1, len(of_part)))


def compare_part(work: Work, part: int) -> None:
    """Write the near-copies of a part."""
    folder, name = work.scratch / "copies", f"{part:06d}.parquet"
    if folder.exists(name):
        return
    words = work.scratch / "words"
    batches = [batch for file in words.names() for batch in _batches(words, file, part)]
    table = pa.Table.from_batches(batches, schema=CANDIDATE).combine_chunks()
    rows = table["row"].to_numpy()
    folder_of_pairs = work.scratch / "pairs"
    pairs = [_within(_read_pairs(folder_of_pairs, each), rows) for each in folder_of_pairs.names()]
    arrays, beside = [table[column].combine_chunks() for column in WORDS.names], table["beside"].to_numpy()

    def words_of_row(row: int) -> RowWords:
        if row not in known:
            index = int(np.searchsorted(rows, row))
            hashes, kinds, is_form = (array[index].values.to_numpy(zero_copy_only=False) for array in arrays)
            known[row] = RowWords(hashes, kinds, is_form, int(beside[index]))
        return known[row]

    known: dict[int, RowWords] = {}
    copies = list(near_copies(distinct_pairs(np.concatenate(pairs)), words_of_row, work.threshold))
    copies_table = table.select(["row", *LABELS.names, "text"]).take(
        np.searchsorted(rows, [copy.row for copy in copies])
    )
    kept = table.select([*LABELS.names, "text"]).take(np.searchsorted(rows, [copy.kept for copy in copies]))
    similarity = pa.array([copy.similarity for copy in copies], pa.float64())
    columns = [*copies_table.columns, similarity, *kept.columns]
    folder.write_table(name, pa.Table.from_arrays(columns, schema=NEAR_COPY_ROWS))


def finish(work: Work, _: int) -> None:
    """Write the table of near-copies in the order of the pool, and the rows to reject where they are dropped."""
    if work.folder.exists(TABLE):
        return
    if work.drop:
        write_tables(work.folder / "rejected", NEAR_COPIES, COPY, map(_rejected, _copies_in_order(work)))
    schema = pa.schema([field for field in NEAR_COPY_ROWS if field.name not in UNWRITTEN])
    write_tables(work.folder, TABLE, schema, (table.select(schema.names) for table in _copies_in_order(work)))


def _copies_in_order(work: Work) -> Iterator[pa.Table]:
    """Yield the near-copies in the order of the pool, so many at a time."""
    folder = work.scratch / "copies"
    names = folder.names()
    numbers = np.sort(
        np.concatenate([np.empty(0, np.int64), *(folder.read_table(name, ["row"])["row"].to_numpy() for name in names)])
    )
    for start in range(0, len(numbers), COPIES_AT_ONCE):
        first, last = numbers[start], numbers[start : start + COPIES_AT_ONCE][-1]
        tables = (folder.read_table(name) for name in names)
        within = [table.filter((pc.field("row") >= first) & (pc.field("row") <= last)) for table in tables]
        yield pa.concat_tables(within).sort_by("row")


def _rejected(copies: pa.Table) -> pa.Table:
    reasons = pa.array([near_copy_reason(kept) for kept in copies["kept_id"].to_pylist()], pa.string())
    columns = [copies["file"], copies["line"], reasons, copies["text"], copies["shard"]]
    return pa.Table.from_arrays(columns, schema=COPY)


def _candidates(work: Work, shard: Shard, parts: pa.Table, templates: KnownHashes) -> pa.Table:
    """Read the candidates of a shard."""
    numbers = parts["row"].to_numpy()
    rows = numbers[np.searchsorted(numbers, shard.first) : np.searchsorted(numbers, shard.end)]
    if not len(rows):
        return CANDIDATE.empty_table()
    table = work.read(shard, ["id", "source", "file", *CONTENT]).take(rows - shard.first)
    words = list(_words(table, templates))
    conversations = table["messages"].to_pylist()
    texts = [" ".join(message["content"] or "" for message in messages)[:SHOWN] for messages in conversations]
    columns = {
        "row": pa.array(rows),
        **{label: table[label] for label in ("id", "source", "file", "line")},
        "shard": pa.array([shard.name] * len(rows), pa.string()),
        "text": pa.array(texts, pa.string()),
        "hashes": _lists([row.hashes for row in words], pa.uint64()),
        "kinds": _lists([row.kinds for row in words], pa.uint8()),
        "is_form": _lists([row.is_form for row in words], pa.bool_()),
        "beside": pa.array([row.beside for row in words], pa.uint64()),
    }
    return pa.table(columns).select(CANDIDATE.names).cast(CANDIDATE)


def _words(table: pa.Table, templates: KnownHashes | None = None) -> Iterator[RowWords]:
    """Yield the words of rows, a table with the columns `CONTENT`."""
    for messages, others, tools in zip(*(table[column].to_pylist() for column in CONTENT), strict=True):
        if others is None and tools is None:
            yield row_words(messages, templates)
            continue
        turns = whole_turns(messages, others)
        # The text of a turn has its calls already; whole turns have their ids too.
        compared = [
            {**message, **{key: turn[key] for key in COMPARED_KEYS if turn.get(key) is not None}}
            for message, turn in zip(messages, turns, strict=True)
        ]
        yield row_words(compared, templates, beside_words(turns, tools))


def _batches(folder: Folder, name: str, part: int) -> list[pa.RecordBatch]:
    with folder.open(name) as stream:
        reader = pa.ipc.open_file(stream)
        numbers = json.loads(reader.schema.metadata[b"parts"])
        return [reader.get_batch(numbers.index(part)).replace_schema_metadata()] if part in numbers else []


def _lists(arrays: Sequence[NDArray[Any]], kind: pa.DataType) -> pa.ListArray:
    ends = np.concatenate([np.zeros(1, dtype=np.int32), np.cumsum([len(each) for each in arrays], dtype=np.int32)])
    values = np.concatenate(arrays) if arrays else np.empty(0)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values, kind))


def _band(number: int) -> str:
    return f"band_{number:02d}"


def _write_pairs(folder: Folder, name: str, pairs: Pairs) -> None:
    folder.write_table(name, pa.table({"first": pairs[:, 0], "second": pairs[:, 1]}))


def _read_pairs(folder: Folder, name: str) -> Pairs:
    table = folder.read_table(name)
    return np.stack([table["first"].to_numpy(), table["second"].to_numpy()], axis=1)


def _within(pairs: Pairs, rows: Rows) -> Pairs:
    """Return the pairs of which both are among the rows, which are sorted."""
    positions = np.minimum(np.searchsorted(rows, pairs), max(0, len(rows) - 1))
    within: Pairs = pairs[(rows[positions] == pairs).all(axis=1)]
    return within
