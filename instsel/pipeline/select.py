"""Stage *select*: a method selects its rows on the driver; tasks filter them from their shards and write them."""

from collections.abc import Callable, Sequence
from typing import Any

from instsel.choice.constrained import MIXTURE, mixture_table
from instsel.choice.output import write_rows
from instsel.choice.parts import WRITING_MEMORY
from instsel.choice.picks import PickRequest, make_picks
from instsel.config.mixture import Mixture
from instsel.config.study import StudyConfig
from instsel.pipeline.extraction import ForwardStage, vector_width
from instsel.pipeline.planned import planned_rows
from instsel.study.attribution_specs import contrast_stages
from instsel.study.estimates import TOKEN_BYTES, Throughput
from instsel.study.results import SelectResult
from instsel.study.runs import Run, reference_of, selections_of
from instsel.study.stage import Finished, PlanContext, RunContext, Settings, Stage, StageEstimate, StageKey

# What a method requires -> the stage that leaves it; influence has a stage for each spec.
SOURCES = {
    "index": "prepare",
    "prompts": "prepare",
    "gradients": "features",
    "embeddings": "embed",
    "hidden_states": "hidden_states",
    "likelihood": "likelihood",
}
# Of the key `mixture`, what the linear program reads.
LINEAR_PROGRAM = {"estimator", "importance", "effects_in", "max_shift", "floors", "caution", "unknown"}


class Select(Stage[SelectResult]):
    """Make a selection and write it as a table and as rows to train on; one folder a selection."""

    name = "select"
    position = 100
    per_trial = True

    def keys(self, config: StudyConfig) -> list[str]:
        # Those that others refer to come before them.
        return sorted(selections_of(config), key=lambda key: selections_of(config)[key].method.refers_to is not None)

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        run = selections_of(config)[key]
        part, reference = config.selection, reference_of(config, run)
        spec = run.method.attribution_spec(part.attribution, part.damping)
        # A matrix of influence has it already.
        contrast = contrast_stages(spec) if run.method.requires == "gradients" else []
        referred = [] if reference is None else [StageKey(self.name, reference.selection)]
        return [_source(config, run), *contrast, *_categories(run, config.mixture), *referred]

    def settings(self, config: StudyConfig, key: str) -> Settings:
        run, part = selections_of(config)[key], config.selection
        settings: Settings = {
            "budget": run.budget,
            "unit": part.unit,
            "seed": run.seed if run.method.is_stochastic else 0,
            **run.method.settings(),
        }
        spec = run.method.attribution_spec(part.attribution, part.damping)
        if spec is not None:
            settings["influence"] = spec.name
        quotas = run.method.quota_shares(part.quotas, config.targets)
        if quotas is not None:
            settings["quotas"] = {**quotas}
        if run.method.is_extended:
            settings["epochs"] = config.finetune.epochs
        if part.include_validation:
            settings["include_validation"] = True
        if run.method.mixture is not None and config.mixture is not None:
            program = config.mixture.model_dump(mode="json", include=LINEAR_PROGRAM)
            settings["mixture"] = {"start": run.method.mixture, **program}
        return settings

    def run_key(self, context: RunContext, key: str) -> Finished[SelectResult]:
        run, folder = selections_of(context.config)[key], context.stage(self.name, key).folder
        request = PickRequest.of(context.config, run)
        picks = make_picks(request, context.study, context.console.say)
        result = write_rows(context.stage("prepare").folder, folder, picks, run_in_tasks)
        if picks.mixture is not None:
            folder.write_table(MIXTURE, mixture_table(picks.mixture))
        added = "" if result.training is None else f"; an epoch has {result.training.rows} rows"
        context.console.say(f"{key}: {result.rows} rows, {result.tokens} tokens{added}")
        return Finished(result)

    def estimate(self, context: PlanContext, keys: Sequence[str]) -> StageEstimate:
        counts = context.counts
        rates = [_rate(context, selections_of(context.config)[key]) for key in keys]
        chosen = [planned_rows(context, selections_of(context.config)[key]) for key in keys]
        # The largest selection is on disk twice as its parts are merged.
        written = (sum(chosen) + max(chosen)) * (counts.chosen_bytes + counts.mean_tokens * TOKEN_BYTES)
        reading = sum(rate.seconds(counts.rows) or 0.0 for rate in rates)
        return StageEstimate(
            self.name,
            rows=len(keys) * counts.rows,
            seconds=reading + sum(chosen) * counts.chosen_seconds,
            memory=max(rate.memory for rate in rates) + WRITING_MEMORY,
            disk=round(written) + max(rate.scratch for rate in rates),
            memory_advice="lower targets.NAME.max_validation, features.dim or selection.budget",
            disk_advice="lower features.dim or targets.NAME.max_validation",
        )


def run_in_tasks(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call a function with each tuple of arguments, in tasks of Ray."""
    import ray

    # Anywhere in the cluster, also where a trial of a search selects: its place has room for nothing.
    task: Any = ray.remote(function).options(scheduling_strategy="DEFAULT")
    calls = [task.remote(*each) for each in arguments]
    try:
        results: list[Any] = ray.get(calls)
    except BaseException:
        for call in calls:
            ray.cancel(call)
        raise
    return results


def _rate(context: PlanContext, run: Run) -> Throughput:
    part, counts = context.config.selection, context.counts
    spec = run.method.attribution_spec(part.attribution, part.damping)
    columns = sum(rows.rows for rows in counts.validation) if spec is None else counts.columns(spec)
    damping = None if spec is None else spec.damping
    return context.profiler.selection(run.method, columns, damping, _width(context, run))


def _width(context: PlanContext, run: Run) -> int:
    """Return the entries of the vectors that a method selects by: as its files have them, or as it was measured."""
    source = _source(context.config, run).stage
    stage = context.graph.stage(source)
    if not isinstance(stage, ForwardStage):
        return 0
    folder = context.graph[source]
    return vector_width(folder.folder) if folder.done() else context.profiler.batches(stage.probe(context.config)).width


def _source(config: StudyConfig, run: Run) -> StageKey:
    """Return the stage whose result the method selects by."""
    if run.method.requires == "influence":
        spec = run.method.attribution_spec(config.selection.attribution, config.selection.damping)
        assert spec is not None
        return StageKey("attribution", spec.name)
    return StageKey(SOURCES[run.method.requires])


def _categories(run: Run, mixture: Mixture | None) -> list[StageKey]:
    """Return the stages of categories that the selection reads."""
    if run.method.mixture is not None and mixture is not None:
        return [StageKey("categorize"), StageKey("interaction", mixture.estimator)]
    return [StageKey("categorize")] if run.method.grouping == "category" else []
