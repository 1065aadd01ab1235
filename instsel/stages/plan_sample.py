"""All rows of the pool's files counted, a sample of them tokenised, before stage *prepare* has run.

The sample and the targets come to the driver: a bounded number of rows.
"""

import time
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import ray

from instsel.config import Data, Model, StudyConfig, Target
from instsel.data.chat import check_tokenizer
from instsel.data.leaks import LeakIndex
from instsel.data.readers import SourceFile, read_chunks
from instsel.data.shards import LEAK, REJECTED, encode_lines, first_occurrences, numeric_ids, reasons
from instsel.errors import InputError
from instsel.inputs import pool_files, target_files
from instsel.model import load_tokenizer
from instsel.planning.rows import sample_lines
from instsel.progress import Terminal
from instsel.stages.memory import peak_memory
from instsel.stages.plan_rows import KEPT, Part, Reading, Rows, group_sizes, parquet, part_of
from instsel.stages.prepare import encoders
from instsel.stages.prepare_targets import target_tables, why_rejected

ROWS_PER_FILE = 256
LEAST_ROWS_PER_FILE = 16
ROWS_IN_ALL = 4096
SEED = 0
INDEX_BYTES = 64  # a row in index.parquet

Tables = dict[str, tuple[pa.Table, pa.Table]]


@dataclass(frozen=True)
class _Sample:
    """A file of the pool: its lines and rows, those that were looked at, the usable ones of these, and the cost."""

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
        """Rows of the file that a row of the sample stands for."""
        return self.rows / max(1, self.looked_at)

    def part(self, shard_rows: int) -> Part:
        """The file's rows, as many as the share of usable ones in the sample makes likely."""
        shards = max(1, -(-self.lines // shard_rows))
        return part_of(self.usable, lambda: self.usable, round(self.weight * len(self.usable)), shards)


def sampled_rows(study: StudyConfig, terminal: Terminal) -> Rows:
    """Count the rows of the pool's files, and tokenise a sample of each as stage *prepare* would.

    Counts are exact where the sample holds every row. Elsewhere the share of rows that are set aside is the sample's;
    copies are looked for within the sample only, so that a pool with many of them has fewer rows than this says.

    Raises:
        InputError: the user's files or tokenizer cannot be used, as stage *prepare* says it.
    """
    began = time.monotonic()
    check_tokenizer(load_tokenizer(study.model))
    targets = _targets(study)
    conversations = [[row for table, _ in found.values() for row in table["messages"].to_pylist()] for found in targets]
    leaks = LeakIndex.of(conversations, study.data.leak_words)
    samples = _without_copies(_samples(study, leaks, terminal))
    pool = [part for part in (sample.part(study.data.shard_rows) for sample in samples) if part.rows.rows]
    if not pool:
        rejected = sum((Counter(sample.rejected) for sample in samples), Counter[str]())
        raise InputError(f"pool: no usable row; {why_rejected(dict(rejected.most_common()))}")
    validation, heldout = (_held(targets, split) for split in ("validation", "heldout"))
    rows, looked_at = sum(sample.rows for sample in samples), sum(sample.looked_at for sample in samples)
    speed = looked_at / max(1e-9, sum(sample.seconds for sample in samples))
    return Rows(
        pool,
        validation,
        heldout,
        group_sizes((sample.usable, sample.weight) for sample in samples),
        reading=sum((sample.reading for sample in samples), Reading()),
        told=_told(samples, rows, looked_at),
        seconds=time.monotonic() - began + (rows - looked_at) / (speed * encoders()),
        disk=_disk([*pool, *validation, *heldout], [sample.reading for sample in samples], targets, leaks),
        memory=max(sample.memory for sample in samples),
    )


def _disk(parts: list[Part], pool: list[Reading], targets: list[Tables], leaks: LeakIndex) -> int:
    """Bytes of the shards, of what was set aside, of the index and of what is known of the targets' texts."""
    known = pa.concat_tables([table for found in targets for table, _ in found.values()])
    reading = sum(pool, Reading.of(known))
    file = len(parquet(known[:1])) + len(parquet(REJECTED.empty_table()))
    rows, files = sum(part.rows.rows for part in parts), sum(part.rows.shards for part in parts)
    whole = rows * (reading.stored / reading.rows + INDEX_BYTES) + files * file
    return round(whole) + leaks.template.nbytes + leaks.runs.nbytes


def _told(samples: list[_Sample], rows: int, looked_at: int) -> str:
    files = "1 file" if len(samples) == 1 else f"{len(samples):,} files"
    text = f"{rows:,} rows in {files} of the pool; {looked_at:,} of them tokenised"
    if looked_at == rows:
        return f"{text}: counts are exact"
    return f"{text}, at most {max(sample.looked_at for sample in samples)} a file: tokens are estimated"


def _targets(study: StudyConfig) -> list[Tables]:
    pending = [
        _encode_target.remote(name, target, target_files(study, name), study.model, study.data)
        for name, target in study.targets.items()
    ]
    return ray.get(pending)


@ray.remote
def _encode_target(name: str, target: Target, files: dict[str, list[SourceFile]], model: Model, data: Data) -> Tables:
    return target_tables(name, target, files, model, data)


def _held(targets: list[Tables], split: str) -> list[Part]:
    tables = [found[split][0] for found in targets if split in found]
    return [part_of(table, lambda table=table: table) for table in tables]  # type: ignore[misc]


def _samples(study: StudyConfig, leaks: LeakIndex, terminal: Terminal) -> list[_Sample]:
    files = pool_files(study)
    count = min(ROWS_PER_FILE, max(LEAST_ROWS_PER_FILE, ROWS_IN_ALL // len(files)))
    shared = ray.put(leaks)
    pending = [
        _sample.remote(file, number, count, study.model, study.data, shared) for number, file in enumerate(files)
    ]
    found = []
    with terminal.bar("count", len(files), "files") as bar:
        for sample in pending:
            found.append(ray.get(sample))
            bar.advance(1)
    return found


@ray.remote
def _sample(file: SourceFile, number: int, count: int, model: Model, data: Data, leaks: LeakIndex) -> _Sample:
    tokenizer = load_tokenizer(model)
    found = sample_lines(read_chunks(file, data.shard_rows), count, [SEED, number])
    began = time.monotonic()
    usable, rejected = encode_lines(
        found.sample,
        1,
        file.uri,
        tokenizer=tokenizer,
        max_length=data.max_length,
        row_format=file.row_format,
        source=file.source,
        default_source=file.stem,
        refuse=lambda messages: LEAK if leaks.leaks(messages) else None,
    )
    seconds = time.monotonic() - began
    kept = usable.select(["id", "source", *KEPT])
    looked_at, reading = len(found.sample), Reading.of(usable)
    return _Sample(found.lines, found.rows, looked_at, kept, reasons(rejected), reading, seconds, peak_memory())


def _without_copies(samples: list[_Sample]) -> list[_Sample]:
    ids = [numeric_ids(sample.usable["id"]) for sample in samples]
    first = np.split(first_occurrences(np.concatenate(ids)), np.cumsum([len(own) for own in ids])[:-1])
    return [
        replace(sample, usable=sample.usable.filter(pa.array(mask, pa.bool_())))
        for sample, mask in zip(samples, first, strict=True)
    ]
