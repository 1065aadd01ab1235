"""One line of a plan: what a stage still has to do and will take."""

from dataclasses import dataclass
from typing import Any

from instsel.config.study import StudyConfig, Training
from instsel.gradients.features import bytes_per_row
from instsel.planner.facts import Facts, Pace
from instsel.planner.influence import plan_attribution
from instsel.planner.mixture import plan_interaction, plan_tag
from instsel.planner.passes import plan_embed, plan_likelihood, plan_represent
from instsel.planner.rows import Batches
from instsel.training.schedule import steps_per_epoch

MIB = 2**20
FLOAT32 = 4
ID_BYTES = 20  # 16 hex digits and an offset, in Arrow
VECTOR_FILE_BYTES = 800  # schema and footer of an Arrow file of vectors


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
        disk: bytes that it writes, those counted that it removes again.
        token_budget: of batches, where it was lowered because memory ran out when batches were tried; else 0.
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


def needs(pace: Pace, items: int) -> dict[str, Any]:
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


TOKEN_BYTES = 8  # input id and label, int32
NORMALISE_BYTES = 20  # of an entry while a shard of features is normalised: float32 three times, float64 once
FEATURE_FILE_BYTES = 2400  # schema, pins and footer of an Arrow file


def plan_stages(study: StudyConfig, facts: Facts) -> list[StagePlan]:
    """Every stage in `facts.todo`, in its order; one that has no part there is done."""
    makers = {
        "prepare": _prepare,
        "embed": plan_embed,
        "represent": plan_represent,
        "likelihood": plan_likelihood,
        "tag": plan_tag,
        "warmup": _warmup,
        "features": _features,
        "attribution": plan_attribution,
        "interaction": plan_interaction,
        "select": _select,
        "finetune": _finetune,
        "evaluate": _evaluate,
    }
    return [makers[name](study, facts) if parts else StagePlan(name, done=True) for name, parts in facts.todo.items()]


def feature_bytes(study: StudyConfig, rows: int, shards: int) -> int:
    """Disk of the features of one checkpoint: 270,679 rows of 8192 float16 are 4.4 GB."""
    return rows * (bytes_per_row(study.features.dim, study.features.storage) + ID_BYTES) + shards * FEATURE_FILE_BYTES


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
    return StagePlan(
        name,
        rows=runs * rows * training.epochs,
        tokens=runs * tokens,
        batches=runs * training.epochs * steps_per_epoch(rows, training.batch_size),
        # Runs share their workers, which start once.
        seconds=pace.seconds(runs * tokens),
        disk=written + runs * training.epochs * facts.checkpoint_bytes,
        **needs(pace, pace.processes),
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
            **needs(pace, checkpoints * shards),
            "memory": pace.memory + largest * study.features.dim * NORMALISE_BYTES,
        },
    )


def _select(study: StudyConfig, facts: Facts) -> StagePlan:
    paces = [facts.paces[f"select/{name}"] for name in facts.todo["select"]]
    written = len(paces) * facts.chosen * (facts.chosen_bytes + facts.mean_tokens * TOKEN_BYTES)
    return StagePlan(
        "select",
        rows=len(paces) * facts.rows,
        seconds=sum(pace.seconds(facts.rows) or 0.0 for pace in paces),
        memory=max(pace.memory for pace in paces),
        disk=round(written) + max(pace.scratch for pace in paces),
    )


def _evaluate(study: StudyConfig, facts: Facts) -> StagePlan:
    runs = len(facts.todo["evaluate"])
    rows = sum(part.rows for part in facts.heldout)
    if not rows:
        return StagePlan("evaluate", rows=0, tokens=0, batches=0)
    pace = facts.paces["evaluate"]
    budget = pace.token_budget or study.evaluation.token_budget
    batches = sum((part.batches(budget) for part in facts.heldout), Batches())
    return StagePlan(
        "evaluate",
        rows=runs * rows,
        tokens=runs * sum(part.tokens for part in facts.heldout),
        batches=runs * batches.count,
        seconds=pace.seconds(runs * batches.padded, runs * len(facts.heldout)),
        disk=runs * rows * (ID_BYTES + 8),
        **needs(pace, runs * len(facts.heldout)),
    )
