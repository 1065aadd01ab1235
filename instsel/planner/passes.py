"""The stages that are forward passes over the pool: *embed*, *represent* and *likelihood*."""

from collections.abc import Sequence

from instsel.config.study import StudyConfig
from instsel.planner.facts import FLOAT32, ID_BYTES, VECTOR_FILE_BYTES, Facts, StagePlan, needs
from instsel.planner.rows import Batches, RowSet

LOSS_BYTES = 2 * 8  # with the prompt and without it, float64
LOSS_FILE_BYTES = 1600  # schema and footer of a Parquet file


def plan_embed(study: StudyConfig, facts: Facts) -> StagePlan:
    """The encoder over the prompts.

    Tokens are those of the study's tokenizer, template marks counted, cut to `embedding.max_length`; the encoder's own
    tokenizer may cut a text into somewhat more or fewer. The time is right all the same: its batches are counted alike.
    """
    prompts = [part.prompts(study.embedding.max_length) for part in [*facts.pool, *facts.validation]]
    return _vectors("embed", prompts, study.embedding.token_budget, facts)


def plan_represent(study: StudyConfig, facts: Facts) -> StagePlan:
    """The base model over pool and validation rows."""
    return _vectors("hidden_states", [*facts.pool, *facts.validation], study.features.token_budget, facts)


def plan_likelihood(study: StudyConfig, facts: Facts) -> StagePlan:
    """The base model over the pool's rows, and over their answers alone."""
    alone = [part.alone() for part in facts.pool]
    disk = facts.rows * (ID_BYTES + LOSS_BYTES) + facts.shards * LOSS_FILE_BYTES
    return _pass("likelihood", [*facts.pool, *alone], study.evaluation.token_budget, facts, facts.shards, disk)


def _vectors(name: str, sets: Sequence[RowSet], budget: int, facts: Facts) -> StagePlan:
    rows, shards = sum(part.rows for part in sets), sum(part.shards for part in sets)
    disk = rows * (ID_BYTES + FLOAT32 * facts.paces[name].width) + shards * VECTOR_FILE_BYTES
    return _pass(name, sets, budget, facts, shards, disk)


def _pass(name: str, sets: Sequence[RowSet], budget: int, facts: Facts, items: int, disk: int) -> StagePlan:
    pace = facts.paces[name]
    batches = sum((part.batches(pace.token_budget or budget) for part in sets), Batches())
    return StagePlan(
        name,
        rows=sum(part.rows for part in sets),
        tokens=sum(part.tokens for part in sets),
        batches=batches.count,
        seconds=pace.seconds(batches.padded, items),
        disk=disk,
        **needs(pace, items),
    )
