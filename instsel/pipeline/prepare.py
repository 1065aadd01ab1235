"""Stage *prepare*: users' files become shards of tokenised examples, without a row on the driver.

A chunk of `data.shard_rows` lines of one file is a shard: its name and content depend on the files alone, never on
how many workers there are, and a killed run resumes with the shards that are missing.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from instsel.config.study import Model, StudyConfig
from instsel.data.encode import was_readable
from instsel.data.readers import SourceFile
from instsel.data.sources import pool_files
from instsel.errors import InputError
from instsel.filters.base import why_filtered
from instsel.io.fingerprint import tokenizer_identity
from instsel.io.store import Folder
from instsel.models.dtypes import dtype_of
from instsel.pipeline.near_duplicates import find_near_duplicates
from instsel.pipeline.prepare_index import finish_pool
from instsel.pipeline.prepare_pool import encode_pool
from instsel.pipeline.prepare_targets import prepare_targets, why_rejected
from instsel.study import dependencies
from instsel.study.results import PoolResult, PrepareResult
from instsel.study.stage import Cost, Finished, PlanContext, RunContext, Settings, Stage, StageEstimate, StageKey

if TYPE_CHECKING:
    pass

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
        shards = encode_pool(config, folder, files, context.resources, context.console)
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


def _identify_model(model: Model) -> tuple[dict[str, str], str | None, int]:
    """Return digests of the tokenizer, the type of the stored weights, and the number of parameters."""
    from instsel.models.loading import load_tokenizer, parameter_count, stored_dtype

    return tokenizer_identity(load_tokenizer(model)), stored_dtype(model), parameter_count(model)


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
