"""Stage *interaction*: how categories help or harm each other, by one estimator, as tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from instsel.config.mixture import Mixture
from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.io.store import Folder
from instsel.pipeline.categorize import count_categories, mixture_of
from instsel.pipeline.evaluate import evaluation_probe
from instsel.pipeline.features import features_probe
from instsel.pipeline.probes import training_probe
from instsel.study import dependencies
from instsel.study.estimates import ID_BYTES, TOKEN_BYTES, Throughput
from instsel.study.results import DependencyResult, InteractionResult, Need
from instsel.study.stage import Cost, Finished, PlanContext, RunContext, Settings, Stage, StageEstimate, StageKey

if TYPE_CHECKING:
    from instsel.mixture.dependency import Dependency
    from instsel.mixture.interaction import Interaction as Effects

GAMMA = "gamma.parquet"
DEPENDENCY = "dependency.parquet"
GRADIENTS = "gradients"


class Interaction(Stage[InteractionResult]):
    """Estimate gamma, and from removals which category needs which; each estimator has its own folder."""

    name = "interaction"
    position = 90
    # 2: gradients are summed in float64 throughout.
    version = 2

    def keys(self, config: StudyConfig) -> list[str]:
        return [] if config.mixture is None else [str(estimator) for estimator in config.mixture.estimators]

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        return [StageKey("categorize"), *([StageKey("features")] if key == GRADIENTS else [])]

    def settings(self, config: StudyConfig, key: str) -> Settings:
        mixture = mixture_of(config)
        settings: Settings = {"estimator": key, "threshold": mixture.threshold}
        if key == GRADIENTS:
            return {**settings, "token_budget": config.features.token_budget}
        plan = mixture.interventions if key == "interventions" else mixture.regression
        return {
            **settings,
            "plan": plan.model_dump(mode="json"),
            **dependencies.adapter_settings(config),
            "finetune": dependencies.training_settings(dependencies.training_of_runs(config, mixture)),
            "evaluation": config.evaluation.token_budget,
        }

    def inputs(self, config: StudyConfig, key: str) -> Settings:
        return {} if key == GRADIENTS else dependencies.training_inputs(config)

    def run_key(self, context: RunContext, key: str) -> Finished[InteractionResult]:
        from instsel.pipeline import category_gradients, category_runs

        estimate = category_gradients.estimate(context) if key == GRADIENTS else category_runs.estimate(context, key)
        return Finished(estimate.write(context.stage(self.name, key).folder, context.console), estimate.cost)

    def estimate(self, context: PlanContext, keys: Sequence[str]) -> StageEstimate:
        """Return what the estimators take one after the other; adapters stay until all runs of one are evaluated.

        Every category counts as a measured one, and every base sample as one with rows of each.
        """
        parts = [_gradients_cost(context) if key == GRADIENTS else _runs_cost(context, key) for key in keys]
        rows, times = round(sum(part.rows for part in parts)), [part.seconds for part in parts]
        rate = next((part.rate for part in parts if part.checkpoint_bytes is not None), parts[0].rate)
        estimate = StageEstimate(
            self.name,
            rows=rows,
            tokens=round(sum(part.rows for part in parts) * context.counts.mean_tokens),
            seconds=None if None in times else sum(time for time in times if time is not None),
            disk=round(rows * (ID_BYTES + context.counts.mean_tokens * TOKEN_BYTES))
            + max(part.checkpoint_bytes or 0 for part in parts),
            memory_advice="lower mixture.training.micro_batch_size, resources.training_workers or "
            "features.token_budget",
        )
        return estimate.with_processes(rate, rate.processes)


@dataclass(frozen=True)
class _EstimatorCost:
    """What an estimator takes.

    Attributes:
        rows: that go through the model, every epoch counted.
        seconds: None where it could not be measured.
        rate: of its processes.
        checkpoint_bytes: of all its trainings; None where it trains nothing.
    """

    rows: float
    seconds: float | None
    rate: Throughput
    checkpoint_bytes: int | None = None


def _gradients_cost(context: PlanContext) -> _EstimatorCost:
    config, mixture = context.config, mixture_of(context.config)
    rows = config.warmup.epochs * count_categories(mixture, context.counts.groups) * mixture.evaluation_rows
    rate = context.profiler.batches(features_probe(config))
    return _EstimatorCost(rows, rate.seconds(rows * context.counts.mean_tokens), rate)


def _runs_cost(context: PlanContext, key: str) -> _EstimatorCost:
    """Return the cost of trainings; their evaluation is left out where the study has no held-out rows to time it on."""
    config, counts, mixture = context.config, context.counts, mixture_of(context.config)
    categories = count_categories(mixture, counts.groups)
    sizes = _intervention_rows(mixture, categories) if key == "interventions" else _subset_rows(mixture, categories)
    training = dependencies.training_of_runs(config, mixture)
    rate = context.profiler.training(training_probe(Interaction.name, config, training))
    rows = sum(sizes) * training.epochs
    seconds = rate.seconds(rows * counts.mean_tokens)
    if seconds is not None and any(part.rows for part in counts.heldout):
        evaluated = len(sizes) * categories * mixture.evaluation_rows * counts.mean_tokens
        seconds += context.profiler.batches(evaluation_probe(config)).seconds(evaluated) or 0.0
    return _EstimatorCost(rows, seconds, rate, len(sizes) * training.epochs * rate.checkpoint_bytes)


def _intervention_rows(mixture: Mixture, categories: int) -> list[float]:
    """Return the rows of each run: base samples, and each with a category added or removed."""
    plan = mixture.interventions
    base, added = plan.base_rows, plan.base_rows + plan.added_rows
    removed = [plan.base_rows * (1 - 1 / categories)] * categories if plan.removals else []
    return plan.bases * [base, *[added] * categories, *removed]


def _subset_rows(mixture: Mixture, categories: int) -> list[float]:
    """Return the rows of each run: a base sample, and categories added by lot."""
    plan = mixture.regression
    return [plan.base_rows + plan.share * categories * plan.added_rows] * plan.runs


@dataclass(frozen=True)
class Estimate:
    """What an estimator found.

    Attributes:
        categories: names, in the order of gamma.
        effects: gamma.
        cost: of the estimate.
        dependency: which category needs which, where removals tell.
        runs: trainings behind it.
        failed: of these, those that diverged.
    """

    categories: Sequence[str]
    effects: "Effects"
    cost: Cost
    dependency: "Dependency | None" = None
    runs: int | None = None
    failed: list[str] | None = None

    def write(self, folder: Folder, console: Terminal) -> InteractionResult:
        """Write gamma and the dependencies as tables, say which categories are unknown, and return the result."""
        effects, names = self.effects, list(self.categories)
        folder.write_table(GAMMA, _pairs(names, "added", "evaluated", gamma=effects.gamma, error=effects.error))
        unknown = [names[category] for category in effects.unknown.tolist()]
        if unknown:
            console.say(f"unknown for {', '.join(unknown)}: their own rows do not clearly help them")
        return InteractionResult(
            categories=names,
            gamma=plain(effects.gamma),
            error=plain(effects.error),
            self_effect=plain(effects.self_effect),
            self_effect_error=plain(effects.self_effect_error),
            unknown=unknown,
            dependency=None if self.dependency is None else _write_dependency(folder, names, self.dependency),
            runs=self.runs,
            failed=self.failed,
        )


def _write_dependency(folder: Folder, names: list[str], dependency: "Dependency") -> DependencyResult:
    from instsel.mixture.dependency import LEVELS

    columns = {"strength": dependency.strength, "error": dependency.error, "needs": dependency.needs}
    folder.write_table(DEPENDENCY, _pairs(names, "without", "evaluated", **columns))
    needs = np.argwhere(dependency.needs).tolist()
    return DependencyResult(
        strength=plain(dependency.strength),
        error=plain(dependency.error),
        needs=[Need(category=names[needing], needs=names[needed]) for needed, needing in needs],
        levels={name: LEVELS[level] for name, level in zip(names, dependency.levels.tolist(), strict=True)},
        cycles=[[names[category] for category in cycle] for cycle in dependency.cycles],
    )


def plain(values: np.ndarray) -> Any:
    """Return an array as lists for JSON, which has no NaN: None in its place."""
    lists = np.asarray(values, dtype=np.float64).tolist()
    return without_nan(lists)


def without_nan(value: Any) -> Any:
    """Return a number, or nested lists of them, with None in place of NaN."""
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    return None if math.isnan(value) else value


def _pairs(names: list[str], first: str, second: str, **columns: np.ndarray) -> pa.Table:
    """Return a line for each pair of categories."""
    size = len(names)
    pairs = {first: np.repeat(names, size), second: np.tile(names, size)}
    return pa.table({**pairs, **{name: values.reshape(-1) for name, values in columns.items()}})
