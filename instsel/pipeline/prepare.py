"""Stage *prepare*: users' files become shards of tokenised examples, without a row on the driver.

A chunk of `data.shard_rows` lines of one file is a shard: its name and content depend on the files alone, never on
how many workers there are, and a killed run resumes with the shards that are missing.
"""

import json
import os
import socket
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypedDict

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from instsel.config.study import Data, Model, StudyConfig
from instsel.data.encode import count_unread, encode_lines, encoding_options, was_readable
from instsel.data.pieces import Chunk, Part, divide, lines_of, read_part
from instsel.data.readers import SourceFile
from instsel.data.sources import pool_files
from instsel.errors import InputError
from instsel.filters.base import why_filtered
from instsel.io.fingerprint import tokenizer_identity
from instsel.io.store import Folder
from instsel.io.whole import is_whole
from instsel.models.dtypes import dtype_of
from instsel.pipeline.near_duplicates import find_near_duplicates
from instsel.pipeline.prepare_index import UNREAD_KEY, finish_pool
from instsel.pipeline.prepare_targets import leak_index, prepare_targets, why_rejected
from instsel.study import dependencies
from instsel.study.folder import path_in_study
from instsel.study.results import PoolResult, PrepareResult
from instsel.study.stage import Cost, Finished, PlanContext, RunContext, Settings, Stage, StageEstimate, StageKey

if TYPE_CHECKING:
    import ray.data

    from instsel.runtime.actors import AttemptLimiter

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
DATE = "date.json"
MOST_KEYS = 8
MOST_FILES = 10
"""Files that are named."""

FLOAT16 = "the model's weights are stored in float16: bfloat16 keeps 8 of their 11 bits, --set model.dtype=float32 all"


class Prepare(Stage[PrepareResult]):
    """Tokenise the rows of targets and pool, and reject those that are of no use, with the reason."""

    name = "prepare"
    position = 10
    version = 3

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        return [StageKey("benchmarks")] if config.scored else []

    def settings(self, config: StudyConfig, key: str) -> Settings:
        read = {"format", "columns", "roles", "subtask", "max_validation", "max_heldout"}
        targets: Settings = {
            name: target.model_dump(mode="json", include=read) for name, target in config.targets.items()
        }
        data = config.data.model_dump(mode="json", exclude={"filters"})
        filters: list[JsonValue] = [each.settings() for each in config.data.filters]
        return {"data": {**data, "filters": filters}, "targets": targets}

    def inputs(self, config: StudyConfig, key: str) -> Settings:
        return {**dependencies.pool_identity(config), "model": dependencies.trained_model(config)}

    def run_key(self, context: RunContext, key: str) -> Finished[PrepareResult]:
        import ray

        folder = context.stage(self.name).folder
        config = _with_date(context.config, folder)
        scored = context.stage("benchmarks").folder if config.scored else None
        targets = prepare_targets(config, folder, scored)
        # A process of its own, as it loads the model's code.
        identifying: Any = ray.remote(max_calls=1)(_identify_model)
        identified = identifying.remote(config.model)
        files = pool_files(config)
        shards = _encode_pool(config, folder, files, context)
        # Before anything counts the rows: those of a file that grew meanwhile are partly of either state.
        dependencies.require_unchanged(context.config, context.stage(self.name).inputs)
        if not shards:
            raise InputError(f"pool: no usable row; {why_rejected({})}")
        near_duplicates = find_near_duplicates(folder, shards, config.data, context.resources, context.console)
        pool, memory = ray.get(ray.remote(finish_pool).remote(folder, shards, _names(files)))
        if not pool.rows:
            filtered = why_filtered(pool.rejected)
            raise InputError(f"pool: no usable row; {filtered or why_rejected(pool.rejected)}")
        counts = ((file, pool.files[name]) for file, name in zip(files, _names(files), strict=True))
        require_rows_of_entries(config, ((file, count.rows, count.rejected) for file, count in counts))
        tokenizer, weights, parameters = ray.get(identified)
        if weights == "float16" and dtype_of(config.model) == "bfloat16":
            context.console.say(FLOAT16)
        for line in filter(None, (_summary(pool), *_empty_files(pool), _unread(pool))):
            context.console.say(line)
        result = PrepareResult(
            pool=pool,
            targets=targets,
            tokenizer=tokenizer,
            parameters=parameters,
            date=str(config.data.date),
            near_duplicates=near_duplicates,
        )
        return Finished(result, Cost(tokens=pool.tokens, peak_memory=memory))

    def estimate(self, context: PlanContext, keys: Sequence[str]) -> StageEstimate:
        counts = context.counts
        sets = [*counts.pool, *counts.validation, *counts.heldout]
        return StageEstimate(
            self.name,
            rows=sum(part.rows for part in sets),
            tokens=sum(part.tokens for part in sets),
            seconds=counts.prepare_seconds,
            memory=counts.prepare_memory,
            disk=counts.prepare_bytes,
            memory_advice="lower data.shard_rows",
        )


def _with_date(config: StudyConfig, folder: Folder) -> StudyConfig:
    """Give the study the day on which it was prepared first, so that one that resumes later writes the same rows."""
    if config.data.date is None:
        folder.create_once(DATE, json.dumps(date.today().isoformat()).encode())  # noqa: DTZ011
        today = date.fromisoformat(folder.read_json(DATE))
        config = config.model_copy(update={"data": config.data.model_copy(update={"date": today})})
    return config


def _encode_pool(study: StudyConfig, folder: Folder, files: list[SourceFile], context: RunContext) -> list[str]:
    """Write every shard of the pool; return their names in the order of the files."""
    from instsel.runtime.actors import AttemptLimiter, bounded_dataset, watch

    work = bounded_dataset(
        [{"number": number, "file": file.to_json()} for number, file in enumerate(files)], encoders()
    )
    work.context.target_max_block_size = CHUNK_BLOCK_BYTES
    names = []
    with (
        AttemptLimiter() as attempts,
        warnings.catch_warnings(),
        context.console.bar("prepare", None, "rows") as bar,
    ):
        # How many parts and chunks there are is not known before they are read.
        warnings.filterwarnings("ignore", "The maximum number of concurrent tasks")
        watch(work, "prepare: a task of 0.5 CPU that tokenises, and readers", context.resources, attempts)
        for row in _encoded(work, len(files), study, folder, attempts).iter_rows():
            names.append(row["shard"])
            bar.advance(row["rows"], row["tokens"])
    return sorted(names)


def _encoded(
    work: "ray.data.Dataset", files: int, study: StudyConfig, folder: Folder, attempts: "AttemptLimiter"
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
            compute=ray.data.TaskPoolStrategy(min(files, encoders())),
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
            batch_size=1,
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


def _identify_model(model: Model) -> tuple[dict[str, str], str | None, int]:
    """Return digests of the tokenizer, the type of the stored weights, and the number of parameters."""
    from instsel.models.loading import load_tokenizer, parameter_count, stored_dtype

    return tokenizer_identity(load_tokenizer(model)), stored_dtype(model), parameter_count(model)


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


def _names(files: Sequence[SourceFile]) -> list[str]:
    """Name the files by their URIs, and by their keys too where several entries have the same one."""
    times = Counter(file.uri for file in files)
    return [file.uri if times[file.uri] == 1 else f"{file.uri} ({file.key})" for file in files]


def require_rows_of_entries(config: StudyConfig, counts: Iterable[tuple[SourceFile, int, Mapping[str, int]]]) -> None:
    """Check that each entry of the pool gave rows, or has some that were not wanted.

    Args:
        config: the study file.
        counts: of each file of the pool, in their order, its usable rows, and rejected ones by reason.

    Raises:
        InputError: an entry gave none; the message has its key and why its rows were rejected.
    """
    for key, of_entry in groupby(counts, lambda count: count[0].key):
        files = list(of_entry)
        rejected = sum((Counter(reasons) for _, _, reasons in files), Counter[str]())
        allowed = config.pool[int(key.split(".")[1])].allow_empty if key.startswith("pool.") else False
        if not any(rows for _, rows, _ in files) and not any(map(was_readable, rejected)) and not allowed:
            why = why_rejected(dict(rejected.most_common()))
            raise InputError(f"{key}: no usable row; {why}; correct it, or set allow_empty: true")


def _empty_files(pool: PoolResult) -> list[str]:
    """Say which files gave no row and why."""
    empty = [f"{uri}: {why_rejected(count.rejected)}" for uri, count in pool.files.items() if not count.rows]
    if not empty:
        return []
    more = [f"and {len(empty) - MOST_FILES} more, which the report lists"] if len(empty) > MOST_FILES else []
    return [f"{len(empty)} of {len(pool.files)} files gave no row:", *empty[:MOST_FILES], *more]


def _unread(pool: PoolResult) -> str:
    """Say which keys of rows nothing reads; nothing where there are none."""
    counts = sum((Counter(count.unread) for count in pool.files.values()), Counter[str]())
    shown = ", ".join(f"{key} ({count:,})" for key, count in counts.most_common(MOST_KEYS))
    more = ", ..." if len(counts) > MOST_KEYS else ""
    return f"keys of rows that no training sees, kept in selections: {shown}{more}" if counts else ""


def _summary(pool: PoolResult) -> str:
    rejected = sum(pool.rejected.values())
    text = f"{pool.rows} rows of {len(pool.sources)} sources, {pool.tokens} tokens"
    return text + (f"; rejected {rejected}: {why_rejected(pool.rejected).partition(': ')[2]}" if rejected else "")
