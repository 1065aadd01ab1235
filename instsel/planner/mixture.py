"""The stages *tag* and *interaction*: trainings by the number of categories, and gradients of the rows evaluated on."""

from instsel.config.mixture import EndpointCategories, Mixture
from instsel.config.study import StudyConfig
from instsel.planner.facts import ID_BYTES, Facts, StagePlan, needs

TAG_BYTES = 40  # a line of tags.parquet, the id left out
TOKEN_BYTES = 8  # input id and label, int32


def plan_tag(study: StudyConfig, facts: Facts) -> StagePlan:
    """Time is not known where an endpoint is asked; the others take seconds."""
    asks = study.mixture is not None and isinstance(study.mixture.categories, EndpointCategories)
    return StagePlan(
        "categorize", rows=facts.rows, seconds=None if asks else 0.0, disk=facts.rows * (ID_BYTES + TAG_BYTES)
    )


def plan_interaction(study: StudyConfig, facts: Facts) -> StagePlan:
    """All estimators that are not done, one run after the other; adapters stay until all runs of one are evaluated.

    Every category counts as one that is measured, and every base sample as one that has rows of each. Evaluation is
    left out where its pace was not measured.
    """
    mixture = study.mixture
    assert mixture is not None
    parts = [_estimator(study, mixture, facts, estimator) for estimator in facts.todo["interaction"]]
    rows, tokens = round(sum(part[0] for part in parts)), round(sum(part[1] for part in parts))
    times = [part[2] for part in parts]
    adapters = max(part[3] for part in parts) * facts.checkpoint_bytes
    pace = facts.paces["interaction" if "interaction" in facts.paces else "features"]
    return StagePlan(
        "interaction",
        rows=rows,
        tokens=tokens,
        seconds=None if None in times else sum(time for time in times if time is not None),
        disk=round(rows * (ID_BYTES + facts.mean_tokens * TOKEN_BYTES)) + adapters,
        **needs(pace, pace.processes),
    )


def _estimator(study: StudyConfig, mixture: Mixture, facts: Facts, name: str) -> tuple[float, float, float | None, int]:
    """Rows and tokens that go through the model, every epoch counted, seconds, and checkpoints of trainings."""
    if name == "gradients":
        taken = study.warmup.epochs * facts.categories * mixture.evaluation_rows
        tokens = taken * facts.mean_tokens
        return taken, tokens, facts.paces["features"].seconds(tokens), 0
    sizes = _interventions(mixture, facts.categories) if name == "interventions" else _subsets(mixture, facts)
    epochs = (mixture.training or study.finetune).epochs
    trained, checkpoints = sum(sizes) * epochs, len(sizes) * epochs
    tokens = trained * facts.mean_tokens
    seconds = facts.paces["interaction"].seconds(tokens)
    if seconds is None:
        return trained, tokens, None, checkpoints
    evaluation = 0.0
    if "evaluate" in facts.paces:
        evaluated = len(sizes) * facts.categories * mixture.evaluation_rows * facts.mean_tokens
        evaluation = facts.paces["evaluate"].seconds(evaluated) or 0.0
    return trained, tokens, seconds + evaluation, checkpoints


def _interventions(mixture: Mixture, categories: int) -> list[float]:
    """Rows of each run."""
    plan = mixture.interventions
    base, added = plan.base_rows, plan.base_rows + plan.added_rows
    less = [plan.base_rows * (1 - 1 / categories)] * categories if plan.removals else []
    return plan.bases * [base, *[added] * categories, *less]


def _subsets(mixture: Mixture, facts: Facts) -> list[float]:
    plan = mixture.regression
    return [plan.base_rows + plan.share * facts.categories * plan.added_rows] * plan.runs
