"""What each stage of a plan will take, from counts and measured rates."""

from instsel.config.study import StudyConfig
from instsel.config.training import Training
from instsel.gradients.features import bytes_per_row
from instsel.planner.facts import ID_BYTES, Facts, StagePlan, needs
from instsel.planner.influence import plan_attribution
from instsel.planner.mixture import plan_interaction, plan_tag
from instsel.planner.passes import plan_embed, plan_likelihood, plan_represent
from instsel.planner.rows import Batches
from instsel.training.schedule import steps_per_epoch

TOKEN_BYTES = 8  # input id and label, int32
NORMALISE_BYTES = 20  # of an entry while a shard of features is normalised: float32 three times, float64 once
FEATURE_FILE_BYTES = 2400  # schema, pins and footer of an Arrow file


def plan_stages(study: StudyConfig, facts: Facts) -> list[StagePlan]:
    """Every stage in `facts.todo`, in its order; one that has no part there is done."""
    makers = {
        "prepare": _prepare,
        "embed": plan_embed,
        "hidden_states": plan_represent,
        "likelihood": plan_likelihood,
        "categorize": plan_tag,
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
