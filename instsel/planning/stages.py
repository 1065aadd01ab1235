"""From counts and measured rates to the rows, tokens, batches, time, memory and disk of every stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from instsel.config import StudyConfig, Training
from instsel.gradients.store import bytes_per_row
from instsel.planning.facts import Facts, Pace
from instsel.planning.rows import Batches
from instsel.training.schedule import steps_per_epoch

MIB = 2**20
FLOAT32 = 4
ID_BYTES = 20  # 16 hex digits and an offset, in Arrow
ID_OBJECT_BYTES = 73  # the same as a Python text in a list
TOKEN_BYTES = 8  # input id and label, int32
NORMALISE_BYTES = 20  # of an entry while a shard of features is normalised: float32 three times, float64 once
# Schema, pins and footer of an Arrow file.
FEATURE_FILE_BYTES = 2400
SCORE_FILE_BYTES = 800


@dataclass(frozen=True)
class StagePlan:
    """What a stage still has to do and will take; None where it has no such figure.

    Attributes:
        name: the stage.
        rows, tokens, batches: that go through it, every pass counted.
        seconds: wall-clock time; None where it could not be measured.
        memory: largest resident memory of one process, bytes.
        together: processes of the stage that share a machine.
        gpu_memory, gpu_total: most memory on a GPU by all processes that share it, and what it has; 0 without one.
        disk: bytes that it writes.
        token_budget: of features, where it was lowered because memory ran out when batches were tried; else 0.
        exhausted: whether memory ran out on the longest rows, and no time is known.
        done: whether nothing of the stage is left to do.
    """

    name: str
    rows: int | None = None
    tokens: int | None = None
    batches: int | None = None
    seconds: float | None = 0.0
    memory: int | None = None
    together: int = 1
    gpu_memory: int = 0
    gpu_total: int = 0
    disk: int = 0
    token_budget: int = 0
    exhausted: bool = False
    done: bool = False


def plan_stages(study: StudyConfig, facts: Facts) -> list[StagePlan]:
    """Every stage from *prepare* to *evaluate*, in order; one that has nothing in `facts.todo` is done."""
    makers = {
        "prepare": _prepare,
        "warmup": _warmup,
        "features": _features,
        "attribution": _attribution,
        "select": _select,
        "finetune": _finetune,
        "evaluate": _evaluate,
    }
    return [make(study, facts) if facts.todo.get(name) else StagePlan(name, done=True) for name, make in makers.items()]


def feature_bytes(study: StudyConfig, rows: int, shards: int) -> int:
    """Disk of the features of one checkpoint: 270,679 rows of 8192 float16 are 4.4 GB."""
    return rows * (bytes_per_row(study.features.dim, study.features.storage) + ID_BYTES) + shards * FEATURE_FILE_BYTES


def attribution_memory(checkpoints: int, rows: int, columns: int, dim: int) -> int:
    """Memory of a process that scores shards of `rows` rows, beside the libraries.

    It holds the validation features of every checkpoint, one of them scaled and transposed, the shard's features, its
    scores, and blocks of the pool at work.
    """
    validation = (checkpoints + 1) * columns * dim * FLOAT32
    shard = checkpoints * rows * dim * 2 + rows * columns * FLOAT32
    return validation + shard + 3 * min(32 * MIB, rows * dim * FLOAT32)


def select_memory(methods: Sequence[str], rows: int, columns: int, chosen: int) -> int:
    """Memory of the driver beside the libraries while it selects.

    It holds the ids, the matrix (rows, columns) in float32, and what the method needs on top, see the selectors.
    """
    ids = rows * ID_OBJECT_BYTES
    if set(methods) <= {"random"}:
        return ids
    cells = rows * columns
    less = 3 * min(32 * MIB, cells * 8)
    bids = 12 * chosen * columns + 3 * min(128 * MIB, cells * 8)
    return ids + cells * FLOAT32 + max(bids if "bids" in methods else 0, less)


def _prepare(study: StudyConfig, facts: Facts) -> StagePlan:
    sets = [*facts.pool, *facts.validation, *facts.heldout]
    return StagePlan(
        "prepare",
        rows=sum(part.rows for part in sets),
        tokens=sum(part.tokens for part in sets),
        seconds=facts.prepare_seconds,
        memory=facts.prepare_memory,
        disk=facts.prepare_bytes,
    )


def _warmup(study: StudyConfig, facts: Facts) -> StagePlan:
    rows = max(1, round(study.warmup.share * facts.rows))
    written = rows * (ID_BYTES + facts.mean_tokens * TOKEN_BYTES)
    return _training("warmup", study.warmup, rows, 1, facts, round(written))


def _finetune(study: StudyConfig, facts: Facts) -> StagePlan:
    return _training("finetune", study.finetune, facts.chosen, len(facts.todo["finetune"]), facts, 0)


def _training(name: str, training: Training, rows: int, runs: int, facts: Facts, written: int) -> StagePlan:
    tokens = round(rows * training.epochs * facts.mean_tokens)
    pace = facts.paces[name]
    seconds = pace.seconds(tokens)
    return StagePlan(
        name,
        rows=runs * rows * training.epochs,
        tokens=runs * tokens,
        batches=runs * training.epochs * steps_per_epoch(rows, training.batch_size),
        seconds=None if seconds is None else runs * seconds,
        disk=written + runs * training.epochs * facts.checkpoint_bytes,
        **_needs(pace, pace.processes),
    )


def _features(study: StudyConfig, facts: Facts) -> StagePlan:
    checkpoints = study.warmup.epochs
    sets = [*facts.pool, *facts.validation]
    rows, shards = sum(part.rows for part in sets), sum(part.shards for part in sets)
    pace = facts.paces["features"]
    budget = pace.token_budget or study.features.token_budget
    batches = sum((part.batches(budget) for part in sets), Batches())
    largest = max(part.rows_per_shard for part in sets)
    return StagePlan(
        "features",
        rows=checkpoints * rows,
        tokens=checkpoints * sum(part.tokens for part in sets),
        batches=checkpoints * batches.count,
        seconds=pace.seconds(checkpoints * batches.padded, checkpoints * shards),
        disk=checkpoints * feature_bytes(study, rows, shards),
        **{
            **_needs(pace, checkpoints * shards),
            "memory": pace.memory + largest * study.features.dim * NORMALISE_BYTES,
        },
    )


def _attribution(study: StudyConfig, facts: Facts) -> StagePlan:
    checkpoints, shards = study.warmup.epochs, sum(part.shards for part in facts.pool)
    pace = facts.paces["attribution"]
    largest = max(part.rows_per_shard for part in facts.pool)
    return StagePlan(
        "attribution",
        rows=checkpoints * facts.rows,
        seconds=pace.seconds(checkpoints * facts.rows, shards),
        memory=pace.memory + attribution_memory(checkpoints, largest, facts.columns, study.features.dim),
        together=min(pace.together, shards),
        disk=facts.rows * (ID_BYTES + facts.columns * FLOAT32) + shards * SCORE_FILE_BYTES,
    )


def _select(study: StudyConfig, facts: Facts) -> StagePlan:
    methods = facts.todo["select"]
    paces = [facts.paces[f"select/{method}"] for method in methods]
    base = max(pace.memory for pace in paces)
    return StagePlan(
        "select",
        rows=len(methods) * facts.rows,
        seconds=sum(pace.seconds(facts.rows) or 0.0 for pace in paces),
        memory=base + select_memory(methods, facts.rows, facts.columns, facts.chosen),
        disk=round(len(methods) * facts.chosen * (facts.chosen_bytes + facts.mean_tokens * TOKEN_BYTES)),
    )


def _evaluate(study: StudyConfig, facts: Facts) -> StagePlan:
    runs = len(facts.todo["evaluate"])
    rows = sum(part.rows for part in facts.heldout)
    if not rows:
        return StagePlan("evaluate", rows=0, tokens=0, batches=0)
    batches = sum((part.batches(study.evaluation.token_budget) for part in facts.heldout), Batches())
    pace = facts.paces["evaluate"]
    return StagePlan(
        "evaluate",
        rows=runs * rows,
        tokens=runs * sum(part.tokens for part in facts.heldout),
        batches=runs * batches.count,
        seconds=pace.seconds(runs * batches.padded, runs * len(facts.heldout)),
        disk=runs * rows * (ID_BYTES + 8),
        **_needs(pace, runs * len(facts.heldout)),
    )


def _needs(pace: Pace, items: int) -> dict[str, Any]:
    """Memory and GPU memory of a stage of so many items, whose processes are as the one that was measured."""
    on_one_gpu = max(1, min(pace.processes, int(1 / pace.gpu_share))) if pace.gpu_share else pace.together
    return {
        "memory": pace.memory,
        "together": min(pace.together, items),
        "gpu_memory": on_one_gpu * pace.gpu_memory,
        "gpu_total": pace.gpu_total,
        "token_budget": pace.token_budget,
        "exhausted": pace.speed is None,
    }
