"""Rows that a run is trained on, before anything is selected: what `instsel plan` goes by."""

from instsel.selection.base import Method
from instsel.selection.cost import PassTokens, selection_cost
from instsel.study.runs import Run, reference_of
from instsel.study.stage import PlanContext


def planned_rows(context: PlanContext, run: Run) -> int:
    """Return the rows of an epoch of a run, about."""
    config, counts = context.config, context.counts
    validation = sum(part.rows for part in counts.validation) if config.selection.include_validation else 0
    return planned_picks(context, run) + validation


def planned_picks(context: PlanContext, run: Run) -> int:
    """Return the rows of a selection and how often they come in an epoch, about."""
    config, counts = context.config, context.counts
    # Budgets are all shares or all counts, so that rows are in proportion to them.
    chosen = max(1, round(counts.chosen * run.budget / config.selection.largest_budget))
    rows = counts.rows if run.method.picks == "all" else chosen
    reference = reference_of(config, run)
    if run.method.is_extended and reference is not None:
        rows += round(_planned_cost(context, reference.method) / config.finetune.epochs / max(1, counts.mean_tokens))
    return rows


def _planned_cost(context: PlanContext, method: Method) -> float:
    """Return what a selection costs in tokens of a training step, about."""
    warmup, counts = context.config.warmup, context.counts
    pool = sum(part.tokens for part in counts.pool)
    tokens = PassTokens(
        pool=pool,
        answers=sum(part.alone().tokens for part in counts.pool),
        validation=sum(part.tokens for part in counts.validation),
        warmup=warmup.epochs * warmup.share * pool,
        checkpoints=warmup.epochs,
    )
    return sum(selection_cost(method.requires, tokens).values())
