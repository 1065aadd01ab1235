"""The rows of a study that was not prepared yet: every file is counted, and a sample of it tokenised."""

import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import ray

from instsel.config.rows import Target
from instsel.config.study import Data, Model, StudyConfig
from instsel.console import Terminal
from instsel.data.chat import check_tokenizer
from instsel.data.contamination import LeakIndex
from instsel.data.encode import (
    EXAMPLES,
    REJECTED,
    encode_lines,
    encoding_options,
    first_occurrences,
    numeric_ids,
    reasons,
)
from instsel.data.near_duplicates import band_keys
from instsel.data.readers import SourceFile, read_chunks
from instsel.data.row_changes import row_words
from instsel.data.sources import pool_files, target_files
from instsel.errors import InputError
from instsel.filters.base import why_filtered
from instsel.io.store import Folder
from instsel.models.loading import load_tokenizer
from instsel.pipeline.benchmarks import write_benchmark
from instsel.pipeline.near_duplicate_passes import KEYS
from instsel.pipeline.prepare import MOST_FILES, require_rows_of_entries
from instsel.pipeline.prepare_pool import encoders
from instsel.pipeline.prepare_targets import target_tables, why_rejected
from instsel.planner.rows import sample_lines
from instsel.planner.sample import KEPT, Part, Preparation, Reading, Sample, group_sizes, parquet, part_of
from instsel.runtime.session import peak_memory

ROWS_PER_FILE = 256
LEAST_ROWS_PER_FILE = 16
ROWS_IN_ALL = 4096
SEED = 0
INDEX_BYTES = 64
"""A row in index.parquet."""
NEAR_COPY_PASSES = 2
"""The passes that find near-copies take so many times as long as the signatures of all rows."""
SIGNATURE_BYTES = 8 * KEYS
"""A row in their files, which are there while near-copies are looked for."""

Tables = dict[str, tuple[pa.Table, pa.Table]]


@dataclass(frozen=True)
class _FileSample:
    """A file of the pool: its lines and rows, those that were tokenised, the usable ones of these, and the cost."""

    file: SourceFile
    lines: int
    rows: int
    looked_at: int
    usable: pa.Table
    rejected: dict[str, int]
    reading: Reading
    seconds: float
    memory: int

    @property
    def weight(self) -> float:
        """Rows of the file that a row of the sample represents."""
        return self.rows / max(1, self.looked_at)

    def part(self, shard_rows: int) -> Part:
        """Return the file's rows, as many as the usable ones of the sample make likely."""
        shards = max(1, -(-self.lines // shard_rows))
        return part_of(self.usable, lambda: self.usable, round(self.weight * len(self.usable)), shards)


def sampled_rows(study: StudyConfig, terminal: Terminal) -> Sample:
    """Count the rows of the pool's files, and tokenise a sample of each as stage *prepare* would.

    Counts are exact where the sample holds every row. Elsewhere the part of rows that are rejected is the sample's;
    copies are looked for within the sample only, so that a pool with many of them has fewer rows than this says.

    Raises:
        InputError: the user's files or tokenizer cannot be used, as stage *prepare* says it.
    """
    start = time.monotonic()
    check_tokenizer(load_tokenizer(study.model))
    targets = _targets(study)
    conversations = [
        [row for table, _ in splits.values() for row in table["messages"].to_pylist()] for splits in targets
    ]
    leaks = LeakIndex.of(conversations, study.data.leak_words)
    sampled = _samples(study, leaks, terminal)
    samples = _without_copies(sampled)
    pool = [part for part in (sample.part(study.data.shard_rows) for sample in samples) if part.rows.rows]
    if not pool:
        rejected = sum((Counter(sample.rejected) for sample in samples), Counter[str]())
        why = why_filtered(rejected) or why_rejected(dict(rejected.most_common()))
        raise InputError(f"pool: no usable row; {why}")
    # Of a file that was not read whole, other rows may be usable.
    counts = ((each.file, len(each.usable) + each.rows - each.looked_at, each.rejected) for each in sampled)
    require_rows_of_entries(study, counts)
    validation, heldout = (_split_rows(targets, split) for split in ("validation", "heldout"))
    rows, looked_at = sum(sample.rows for sample in samples), sum(sample.looked_at for sample in samples)
    speed = looked_at / max(1e-9, sum(sample.seconds for sample in samples))
    return Sample(
        pool,
        validation,
        heldout,
        group_sizes((sample.usable, sample.weight) for sample in samples),
        reading=sum((sample.reading for sample in samples), Reading()),
        summary=_summary(samples, rows, looked_at),
        preparation=Preparation(
            time.monotonic() - start + (rows - looked_at) / (speed * encoders()),
            _disk([*pool, *validation, *heldout], [sample.reading for sample in samples], targets, leaks)
            + (0 if study.data.near_duplicates == "off" else SIGNATURE_BYTES * sum(part.rows.rows for part in pool)),
            max(sample.memory for sample in samples),
        ),
    )


def _disk(parts: list[Part], pool: list[Reading], targets: list[Tables], leaks: LeakIndex) -> int:
    """Return the bytes of the shards, of rejected rows, of the index and of what is known of the targets' texts."""
    known = pa.concat_tables([EXAMPLES.empty_table(), *(table for splits in targets for table, _ in splits.values())])
    reading = sum(pool, Reading.measure(known))
    file = len(parquet(known[:1])) + len(parquet(REJECTED.empty_table()))
    rows, files = sum(part.rows.rows for part in parts), sum(part.rows.shards for part in parts)
    whole = rows * (reading.stored / reading.rows + INDEX_BYTES) + files * file
    return round(whole) + sum(array.nbytes for array in leaks.arrays().values())


def _summary(samples: list[_FileSample], rows: int, looked_at: int) -> str:
    files = "1 file" if len(samples) == 1 else f"{len(samples):,} files"
    text = f"{rows:,} rows in {files} of the pool; {looked_at:,} of them tokenised"
    if looked_at == rows:
        text = f"{text}: counts are exact"
    else:
        text = f"{text}, at most {max(sample.looked_at for sample in samples)} a file: tokens are estimated"
    # Files that gave nothing come first.
    with_rejected = sorted((sample for sample in samples if sample.rejected), key=lambda sample: len(sample.usable) > 0)
    lines = [_rejected_of(sample) for sample in with_rejected[:MOST_FILES]]
    hidden = len(with_rejected) - len(lines)
    return "\n  ".join([text, *lines, *([f"and {hidden:,} more files with rejected rows"] if hidden else [])])


def _rejected_of(sample: _FileSample) -> str:
    return f"{sample.file.uri}: of {sample.looked_at:,} rows that were looked at, {why_rejected(sample.rejected)}"


def _targets(study: StudyConfig) -> list[Tables]:
    pending = [
        _encode_task.remote(study, name)
        if target.task is not None
        else _encode_target.remote(name, target, target_files(study, name), study.model, study.data)
        for name, target in study.targets.items()
    ]
    return ray.get(pending)


# A process of its own, as lm-eval stays in memory.
@ray.remote(max_calls=1)
def _encode_task(study: StudyConfig, name: str) -> Tables:
    """Encode the rows of a task of lm-eval, which stage *benchmarks* has perhaps not written yet."""
    with tempfile.TemporaryDirectory() as folder:
        write_benchmark(study, name, Folder.at(folder), [])
        return target_tables(name, study.targets[name], target_files(study, name, folder), study.model, study.data)


@ray.remote
def _encode_target(name: str, target: Target, files: dict[str, list[SourceFile]], model: Model, data: Data) -> Tables:
    return target_tables(name, target, files, model, data)


def _split_rows(targets: list[Tables], split: str) -> list[Part]:
    tables = [splits[split][0] for splits in targets if split in splits]
    return [part_of(table, lambda table=table: table) for table in tables]  # type: ignore[misc]


def _samples(study: StudyConfig, leaks: LeakIndex, terminal: Terminal) -> list[_FileSample]:
    files = pool_files(study)
    count = min(ROWS_PER_FILE, max(LEAST_ROWS_PER_FILE, ROWS_IN_ALL // len(files)))
    shared = ray.put(leaks)
    pending = [
        _sample_file.remote(file, number, count, study.model, study.data, shared) for number, file in enumerate(files)
    ]
    samples = []
    with terminal.bar("count", len(files), "files") as bar:
        for sample in pending:
            samples.append(ray.get(sample))
            bar.advance(1)
    return samples


@ray.remote
def _sample_file(file: SourceFile, number: int, count: int, model: Model, data: Data, leaks: LeakIndex) -> _FileSample:
    tokenizer = load_tokenizer(model)
    lines = sample_lines(read_chunks(file, data.shard_rows), count, [SEED, number])
    start = time.monotonic()
    usable, rejected = encode_lines(
        lines.sample,
        1,
        file.uri,
        tokenizer=tokenizer,
        options=encoding_options(data),
        layout=file.layout,
        source=file.source,
        default_source=file.stem,
        reject_if=leaks.reasons,
        filters=data.filters,
    )
    seconds = time.monotonic() - start + _near_copy_seconds(usable, data)
    kept = usable.select(["id", "source", *KEPT])
    looked_at, reading = len(lines.sample), Reading.measure(usable)
    counts = (lines.lines, lines.rows, looked_at)
    return _FileSample(file, *counts, kept, reasons(rejected), reading, seconds, peak_memory())


def _near_copy_seconds(usable: pa.Table, data: Data) -> float:
    """Return what it will take to look for near-copies of rows."""
    if data.near_duplicates == "off":
        return 0.0
    start = time.monotonic()
    band_keys([row_words(messages).content_shingles for messages in usable["messages"].to_pylist()])
    return NEAR_COPY_PASSES * (time.monotonic() - start)


def _without_copies(samples: list[_FileSample]) -> list[_FileSample]:
    ids = [numeric_ids(sample.usable["id"]) for sample in samples]
    first = np.split(first_occurrences(np.concatenate(ids)), np.cumsum([len(each) for each in ids])[:-1])
    return [
        replace(sample, usable=sample.usable.filter(pa.array(mask, pa.bool_())))
        for sample, mask in zip(samples, first, strict=True)
    ]
