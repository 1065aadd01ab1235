"""Stage *contrast*: gradients of validation rows towards the right answer against others, by the actors of features."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from instsel.config.study import StudyConfig
from instsel.errors import InputError
from instsel.pipeline.answers import VALIDATION, answers_of
from instsel.pipeline.features import (
    GradientTaker,
    extract_features,
    feature_bytes,
    features_probe,
    missing_items,
    rejected_rows,
)
from instsel.study.estimates import EXAMPLE, FLOAT32, batch_estimate
from instsel.study.provenance import contrast_provenance, settle_provenance
from instsel.study.results import AnswersResult, FeaturesResult, WarmupResult
from instsel.study.stage import Finished, PlanContext, RunContext, Stage, StageEstimate, StageKey

if TYPE_CHECKING:
    from instsel.data.batching import Example
    from instsel.gradients.engine import GradientEngine

ITEMS_AT_ONCE = 256
"""Items whose answers' gradients are in memory before they are combined: 42 MB with five answers at d = 8192."""


class Contrast(Stage[FeaturesResult]):
    """Take the gradients of all answers to the validation rows, and combine those of each row."""

    name = "contrast"
    position = 75

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        return [StageKey("features"), StageKey("answers", VALIDATION)]

    def run_key(self, context: RunContext, key: str) -> Finished[FeaturesResult]:
        """Write the tables that are missing; the result has what those of every checkpoint depend on.

        Raises:
            InputError: a target has no validation row with another answer.
        """
        stage, answers = context.stage(self.name), context.stage("answers", VALIDATION)
        counts = answers.result(AnswersResult)
        for name, count in counts.items.items():
            if not count:
                raise InputError(
                    f"targets.{name}.validation: no row has another answer to contrast its own with; use other rows, "
                    "give them `choices`, or use another attribution than contrast"
                )
        provenance = contrast_provenance(context)
        settle_provenance(stage, provenance, context.console)
        items = [
            {"checkpoint": checkpoint, "kind": "validation", "name": name, "rows": f"{name}.parquet"}
            for checkpoint in provenance
            for name in counts.items
        ]
        missing = missing_items(items, stage.folder)
        if len(missing) < len(items):
            context.console.say(f"{len(items) - len(missing)} of {len(items)} tables were there already")
        cost = extract_features(context, stage.folder, provenance, answers.folder, missing, ContrastTaker)
        # A worker that was killed may have left half a file.
        stage.folder.clean()
        rejected = {**counts.rejected, **rejected_rows(stage.folder)}
        if rejected:
            context.console.say(f"rejected {len(rejected)} validation rows without a contrast gradient")
        checkpoints = context.stage("warmup").result(WarmupResult).checkpoints
        return Finished(FeaturesResult(checkpoints=checkpoints, provenance=provenance, rejected=rejected), cost)

    def estimate(self, context: PlanContext, keys: Sequence[str]) -> StageEstimate:
        """Return what it takes if every row has all the other answers, as long as its own."""
        config, checkpoints = context.config, context.config.warmup.epochs
        answers = 1 + config.answers.others
        sets = [answers_of(rows, answers) for rows in context.counts.validation]
        rate = context.profiler.batches(features_probe(config))
        estimate = batch_estimate(self.name, sets, config.features.token_budget, rate, checkpoints)
        held = answers * min(ITEMS_AT_ONCE, max(rows.rows for rows in context.counts.validation))
        kept = sum(rows.rows for rows in context.counts.validation)
        return replace(
            estimate,
            disk=checkpoints * feature_bytes(config.features, kept, len(sets)),
            memory=rate.memory + 3 * held * config.features.dim * FLOAT32,
            memory_advice="lower features.token_budget or resources.actors",
            disk_advice="lower features.dim or targets.NAME.max_validation",
        )


class ContrastTaker(GradientTaker):
    """Takes gradients and log-probabilities of the answers to validation rows, and writes a gradient for each row."""

    columns: ClassVar[Sequence[str]] = (*EXAMPLE, "row")

    def features(
        self, engine: "GradientEngine", ids: list[str], examples: "list[Example]"
    ) -> tuple[list[str], np.ndarray, dict[str, str]]:
        from instsel.attribution import contrast
        from instsel.gradients.features import NOT_FINITE

        labels = np.array([example["row"] for example in examples])
        items = np.unique(labels)
        parts, without = [np.empty((0, self.sketch.dim), np.float32)], set[str]()
        for first in range(0, len(items), ITEMS_AT_ONCE):
            rows = np.flatnonzero(np.isin(labels, items[first : first + ITEMS_AT_ONCE]))
            features, losses = engine.features_and_losses([examples[row] for row in rows])
            finite = np.isfinite(features).all(axis=1) & np.isfinite(losses)
            bad = np.unique(labels[rows[~finite]])
            kept = ~np.isin(labels[rows], bad)
            parts.append(contrast(features[kept], -losses[kept], labels[rows[kept]]))
            without |= set(bad.tolist())
        names = [str(item) for item in items if item not in without]
        return names, np.concatenate(parts), dict.fromkeys(sorted(without), NOT_FINITE)
