"""The pool of stage *prepare*: its files are read in chunks and tokenised in tasks, a shard each."""

import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from instsel.config.study import Data, Model, StudyConfig
from instsel.console import Terminal
from instsel.data.encode import count_unread, encode_lines, encoding_options
from instsel.data.pieces import Chunk, Part, divide, has_ranges, lines_of, read_part
from instsel.data.readers import SourceFile, info_of
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.io.whole import is_whole
from instsel.pipeline.prepare_index import UNREAD_KEY
from instsel.pipeline.prepare_targets import leak_index
from instsel.study.folder import path_in_study
from instsel.study.resources import ResourcePlan

if TYPE_CHECKING:
    import ray.data

    from instsel.runtime.attempts import AttemptLimiter

# Between two tasks of a process there is a pause, so that each takes several chunks of a large file of JSON lines: they
# are ranges of its bytes, read one after the other. How many it has is guessed, by rows of a kilobyte.
TASKS_PER_PROCESS, MOST_CHUNKS = 12, 8
GUESSED_ROW_BYTES, MOST_FILES_LOOKED_AT = 1024, 64
# Each chunk is a block, and thereby a task of its own, also where it is only a range of bytes.
CHUNK_BLOCK_BYTES = 1
PARTS = pa.schema([("number", pa.int64()), ("file", pa.string()), ("start", pa.int64()), ("stop", pa.int64())])
CHUNKS = pa.schema(
    [
        ("shard", pa.string()),
        ("file", pa.string()),
        ("number", pa.int64()),
        ("first", pa.int64()),
        ("rows", pa.int64()),
        ("lines", pa.list_(pa.large_binary())),
        ("start", pa.int64()),
        ("length", pa.int64()),
    ]
)


def encode_pool(
    study: StudyConfig, folder: Folder, files: list[SourceFile], resources: ResourcePlan, terminal: Terminal
) -> list[str]:
    """Write every shard of the pool that is missing.

    Args:
        study: the study file, its date pinned.
        folder: of the stage.
        files: of the pool.
        resources: with the limits of work that stands still.
        terminal: where progress is shown.

    Returns:
        The names of all shards, in the order of the files.
    """
    from instsel.runtime.actors import bounded_dataset, watch
    from instsel.runtime.attempts import AttemptLimiter

    work = bounded_dataset(
        [{"number": number, "file": file.to_json()} for number, file in enumerate(files)], encoders()
    )
    work.context.target_max_block_size = CHUNK_BLOCK_BYTES
    names = []
    with (
        AttemptLimiter() as attempts,
        warnings.catch_warnings(),
        terminal.bar("prepare", None, "rows") as bar,
    ):
        # How many parts and chunks there are is not known before they are read.
        warnings.filterwarnings("ignore", "The maximum number of concurrent tasks")
        watch(work, "prepare: a task of 0.5 CPU that tokenises, and readers", resources, attempts)
        for row in _encoded(work, files, study, folder, attempts).iter_rows():
            names.append(row["shard"])
            bar.advance(row["rows"], row["tokens"])
    return sorted(names)


def _encoded(
    work: "ray.data.Dataset", files: list[SourceFile], study: StudyConfig, folder: Folder, attempts: "AttemptLimiter"
) -> "ray.data.Dataset":
    import ray.data

    from instsel.runtime.actors import READER_CPUS
    from instsel.runtime.process_cache import new_key

    dividing: Any = _divide
    reader: Any = _read
    encoding: Any = _encode
    return (
        work.map_batches(
            dividing,
            batch_size=1,
            batch_format="pyarrow",
            # Unlike what reading asks for, so that the parts of a file are read by tasks of their own.
            num_cpus=READER_CPUS / 2,
            compute=ray.data.TaskPoolStrategy(min(len(files), encoders())),
            fn_kwargs={"shard_rows": study.data.shard_rows},
        )
        .map_batches(
            reader,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=READER_CPUS,
            compute=ray.data.TaskPoolStrategy(encoders()),
            fn_kwargs={"shard_rows": study.data.shard_rows},
        )
        .map_batches(
            encoding,
            batch_size=_chunks_of_a_task(files, study.data.shard_rows),
            batch_format="pyarrow",
            num_cpus=0.5,
            # Tasks and not actors: they run in the processes that encoded the targets, which have loaded transformers.
            compute=ray.data.TaskPoolStrategy(encoders()),
            fn_args=(new_key(), attempts, study.model, study.data, folder),
        )
    )


def encoders() -> int:
    """Return the most processes that tokenise at once: one a CPU, as reading takes little beside it."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _chunks_of_a_task(files: list[SourceFile], shard_rows: int) -> int:
    """Return how many chunks a task takes: one where they may be held in memory, or are few."""
    if len(files) > MOST_FILES_LOOKED_AT or not all(map(has_ranges, files)):
        return 1
    size = sum(info_of(file.uri).size or 0 for file in files)
    return max(1, min(MOST_CHUNKS, size // (shard_rows * GUESSED_ROW_BYTES * TASKS_PER_PROCESS * encoders())))


def _divide(batch: pa.Table, *, shard_rows: int) -> Iterator[pa.Table]:
    for row in batch.to_pylist():
        for part in divide(SourceFile.from_json(row["file"]), shard_rows):
            yield pa.Table.from_pylist([{**row, **asdict(part)}], schema=PARTS)


def _read(batch: pa.Table, *, shard_rows: int) -> Iterator[pa.Table]:
    for row in batch.to_pylist():
        part = Part(row["start"], row["stop"])
        for chunk in read_part(SourceFile.from_json(row["file"]), part, shard_rows):
            shard = f"{row['number']:05d}-{chunk.number:06d}"
            yield pa.Table.from_pylist([{"shard": shard, "file": row["file"], **vars(chunk)}], schema=CHUNKS)


def _encode(
    batch: pa.Table, key: str, attempts: "AttemptLimiter", model: Model, data: Data, folder: Folder
) -> pa.Table:
    from instsel.runtime.process_cache import kept_in_process

    counts: list[_ShardCount] = []
    for row in batch.to_pylist():
        shard, file = row.pop("shard"), SourceFile.from_json(row.pop("file"))
        if all(is_whole(folder / kind, f"{shard}.parquet") for kind in ("pool", "rejected")):
            counts.append({"shard": shard, "rows": 0, "tokens": 0})
            continue
        chunk = Chunk(**row)
        # Before the encoder is made: a process that dies while it loads the tokenizer counts as an attempt, too.
        attempts.start(folder, shard, chunk.rows, f"{file.uri}, from line {chunk.first}")
        with kept_in_process(key, lambda: _Encoder(model, data, folder)) as encoder:
            counts.append(encoder(shard, file, chunk))
    return pa.Table.from_pylist(counts)


class _ShardCount(TypedDict):
    """What an encoder says of a shard that it has written; no rows where it was there."""

    shard: str
    rows: int
    tokens: int


class _Encoder:
    """Tokenises chunks and commits each as a shard."""

    def __init__(self, model: Model, data: Data, folder: Folder) -> None:
        from instsel.models.loading import load_tokenizer
        from instsel.runtime.observability import Meter

        # There is a process for every CPU, so that threads in each would only wait for one another.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            self.tokenizer = load_tokenizer(model)
        except InputError as error:
            raise InputError(f"{error}; so it is on {socket.gethostname()}, and every machine reads it") from error
        self.data = data
        self.pool, self.rejected = folder / "pool", folder / "rejected"
        self.leaks = leak_index(folder, data.leak_words)
        self.meter = Meter(path_in_study(folder)[0], "prepare")

    def __call__(self, shard: str, file: SourceFile, chunk: Chunk) -> _ShardCount:
        name, began = f"{shard}.parquet", time.monotonic()
        examples, rejected = encode_lines(
            lines_of(file, chunk),
            chunk.first,
            file.uri,
            tokenizer=self.tokenizer,
            options=encoding_options(self.data),
            layout=file.layout,
            source=file.source,
            default_source=file.stem,
            reject_if=self.leaks.reasons,
            filters=self.data.filters,
        )
        self.rejected.write_table(name, rejected)
        # The counts travel with the shard, so that a run that resumes has them.
        unread = {UNREAD_KEY: json.dumps(count_unread(examples))}
        self.pool.write_table(name, examples.replace_schema_metadata(unread))
        tokens = pc.sum(examples["tokens"]).as_py() or 0
        seconds = time.monotonic() - began
        self.meter.count(rows=len(examples), tokens=tokens, rejected=len(rejected), seconds=seconds)
        return {"shard": shard, "rows": len(examples), "tokens": tokens}
