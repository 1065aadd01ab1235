"""Stage *headroom*: what training on rows that are known to serve a target moves on its validation rows.

A target on which that moves nothing cannot tell methods apart at this model and budget. No held-out row is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instsel.choice.budget import Budget
from instsel.choice.output import TRAINING_SET, write_training_sets
from instsel.config.study import StudyConfig
from instsel.errors import Diverged, InputError
from instsel.io.store import Folder
from instsel.pipeline.answers import VALIDATION, answers_of
from instsel.pipeline.evaluate import EvaluationSet, evaluate_sets, evaluation_probe
from instsel.pipeline.finetune import DIVERGED, commit_run
from instsel.pipeline.probes import training_probe
from instsel.pipeline.validation_scores import (
    ScoredFold,
    score_folds,
    score_gains,
    scored_lengths,
    scoring_settings,
)
from instsel.study import dependencies
from instsel.study.estimates import batch_estimate, training_estimate
from instsel.study.folder import StageFolder
from instsel.study.gains import ANSWERS, read_gains
from instsel.study.results import AnswersResult, HeadroomResult, HeadroomRows, PrepareResult, TrainingResult
from instsel.study.runs import BASE
from instsel.study.stage import Cost, Finished, PlanContext, RunContext, Settings, Stage, StageEstimate, StageKey

FOLDS = 3
SCORES = "scores.parquet"
EXAMPLE = ["id", "input_ids", "labels"]


@dataclass(frozen=True)
class HeadroomRun:
    """A training for a target.

    Attributes:
        name: of the run and its folder.
        target: that it is for.
        rows: ids of the rows to train on, in order.
        scored: ids of the validation rows that it is scored on.
        by_sources: whether the rows are the pool's; else they are validation rows, none of those that are scored.
    """

    name: str
    target: str
    rows: list[str]
    scored: list[str]
    by_sources: bool


class Headroom(Stage[HeadroomResult]):
    """Train for every target, and score base model and adapters on its validation rows."""

    name = "headroom"
    position = 115
    version = 2

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        answers = [StageKey("answers", VALIDATION)] if config.evaluation.form_and_content else []
        return [StageKey("prepare"), *answers]

    def settings(self, config: StudyConfig, key: str) -> Settings:
        part = config.selection
        served: Settings = {name: list(target.served_by or ()) for name, target in config.targets.items()}
        training = {
            "finetune": dependencies.training_settings(config.finetune),
            "budget": part.largest_budget,
            "unit": part.unit,
        }
        scoring = {"token_budget": config.evaluation.token_budget, "content": config.evaluation.form_and_content}
        by_answers = scoring_settings(config)
        return {
            **dependencies.adapter_settings(config), **training, **scoring, "served_by": served, "scoring": by_answers,
        }  # fmt: skip

    def inputs(self, config: StudyConfig, key: str) -> Settings:
        return dependencies.training_inputs(config)

    def run_key(self, context: RunContext, key: str) -> Finished[HeadroomResult]:
        """Train the runs that are not done, score them, and remove their adapters.

        Raises:
            InputError: a target is served by a source that the pool does not have, or has a single validation row.
            Diverged: a run did.
        """
        stage = context.stage(self.name)
        planned = planned_runs(context)
        folders = {run.name: _run_folder(stage, run, context.stage("prepare")) for run in planned}
        _train(context, planned, folders)
        cost = _evaluate(context, planned, folders)
        folds = [ScoredFold(run.name, run.target, run.scored, _adapter(folders[run.name])) for run in planned]
        of_answers = score_folds(context, stage.folder, folds)
        stage.folder.write_table(SCORES, _scores(stage.folder, folds))
        manifests = [folder.manifest()["cost"] for folder in folders.values()]
        for folder in folders.values():
            (folder.folder / folder.result(TrainingResult).run).remove()
        trained = Cost(
            tokens=cost.tokens + sum(manifest["tokens"] for manifest in manifests),
            peak_memory=max(
                cost.peak_memory, of_answers.peak_memory, *(manifest["peak_memory_bytes"] for manifest in manifests)
            ),
        )
        targets = {
            run.target: HeadroomRows(
                trained=len(run.rows), by_sources=run.by_sources,
                scored=sum(len(other.scored) for other in planned if other.target == run.target),
            )
            for run in planned
        }  # fmt: skip
        return Finished(HeadroomResult(targets=targets), trained)

    def estimate(self, context: PlanContext, keys: Sequence[str]) -> StageEstimate:
        config, counts = context.config, context.counts
        probe = training_probe("finetune", config, config.finetune)
        trainings, passes = [], 0
        for target, rows in zip(config.targets.values(), counts.validation, strict=True):
            runs = 1 if target.served_by else FOLDS
            size = counts.chosen if target.served_by else rows.rows * (FOLDS - 1) // FOLDS
            trainings.append(training_estimate(context, probe, [max(1, size)] * runs))
            passes = max(passes, 1 + runs)
        sets = list(counts.validation)
        if config.evaluation.form_and_content:
            sets += [answers_of(rows, 1 + config.answers.others) for rows in counts.validation]
        rate = context.profiler.batches(evaluation_probe(config))
        scored = batch_estimate(self.name, sets, config.evaluation.token_budget, rate, passes)
        parts = [*trainings, scored]
        if answers := scored_lengths(config, dict(zip(config.targets, counts.validation, strict=True))):
            # Base model and adapters answer each row once.
            parts.append(batch_estimate(self.name, answers, config.evaluation.token_budget, rate, passes=2))
        seconds = [part.seconds for part in parts]
        return replace(
            scored,
            rows=sum(part.rows or 0 for part in parts),
            tokens=sum(part.tokens or 0 for part in parts),
            batches=sum(part.batches or 0 for part in parts),
            seconds=None if None in seconds else sum(each or 0.0 for each in seconds),
            memory=max(part.memory or 0 for part in parts),
            disk=sum(part.disk for part in parts),
            memory_advice="lower finetune.micro_batch_size, resources.training_workers or evaluation.token_budget",
            disk_advice="lower finetune.epochs or lora.rank",
        )


def planned_runs(context: RunContext) -> list[HeadroomRun]:
    """Return the trainings: one for a target that names what serves it, else one a fold of its validation rows.

    Raises:
        InputError: see `Headroom.run_key`.
    """
    config, prepare = context.config, context.stage("prepare")
    index = prepare.folder.read_table("index.parquet", ["id", "source", "tokens"])
    runs = []
    for name, target in config.targets.items():
        rows = (prepare.folder / "targets" / name).read_table("validation.parquet", ["id"])["id"].to_pylist()
        generator = np.random.default_rng([config.finetune.seed, *name.encode()])
        if target.served_by:
            serving = _serving(context, name, target.served_by, index, generator)
            runs.append(HeadroomRun(f"run-{name}", name, serving, rows, by_sources=True))
            continue
        if len(rows) < 2:
            raise InputError(
                f"targets.{name}: evaluation.headroom trains on some validation rows and scores others, and there is "
                f"{len(rows)}; give more, or `served_by`"
            )
        folds = generator.permutation(len(rows)) % min(FOLDS, len(rows))
        for fold in range(folds.max() + 1):
            train, scored = ([rows[row] for row in np.flatnonzero(mask)] for mask in (folds != fold, folds == fold))
            runs.append(HeadroomRun(f"run-{name}-{fold}", name, train, scored, by_sources=False))
    return runs


def _serving(
    context: RunContext, name: str, sources: Sequence[str], index: pa.Table, generator: np.random.Generator
) -> list[str]:
    """Draw rows of some sources, as many as the study's budget allows."""
    pool, part = context.stage("prepare").result(PrepareResult).pool, context.config.selection
    for source in sources:
        if source not in pool.sources:
            known = ", ".join(pool.sources)
            raise InputError(f"targets.{name}.served_by: the pool has no source {source!r}; its sources are {known}")
    serving = index.filter(pc.is_in(index["source"], pa.array(sources, pa.string())))
    drawn = serving.take(pa.array(generator.permutation(len(serving))))
    limit = int(Budget(part.largest_budget, part.unit).of(pool).amount)
    if part.unit == "tokens":
        fitting = int(np.searchsorted(np.cumsum(drawn["tokens"].to_numpy()), limit, side="right"))
        limit = max(1, fitting)
    ids: list[str] = drawn["id"].to_pylist()[:limit]
    return ids


def _run_folder(stage: StageFolder, run: HeadroomRun, prepare: StageFolder) -> StageFolder:
    settings: Settings = {**stage.settings, "rows": list(run.rows)}
    return StageFolder(stage.folder / run.name, f"headroom/{run.name}", settings, [prepare], stage.inputs)


def _train(context: RunContext, planned: Sequence[HeadroomRun], folders: Mapping[str, StageFolder]) -> None:
    """Train the runs that are not done, as stage *finetune* does."""
    import ray

    from instsel.runtime.training import run_trainings, train_side_by_side
    from instsel.runtime.training_run import TrainingRun, TrainingSession
    from instsel.runtime.tune import plan_trial_resources

    config, prepare = context.config, context.stage("prepare")
    missing = [run for run in planned if not folders[run.name].done()]
    if len(missing) < len(planned):
        context.console.say(f"{len(planned) - len(missing)} of {len(planned)} trainings were there already")
    if not missing:
        return
    for run in missing:
        folders[run.name].start()
    writing: Any = ray.remote(_write_training_sets)
    ray.get(writing.remote(prepare.folder, {run.name: folders[run.name].folder for run in missing}, missing))
    pool = prepare.result(PrepareResult).pool
    trainings = []
    for run in missing:
        tokens, folder = config.finetune.epochs * len(run.rows) * pool.tokens / pool.rows, folders[run.name]
        trainings.append(TrainingRun(folder.name, folder, config.finetune, (folder.folder, TRAINING_SET), tokens))
    on_end = partial(commit_run, folders=[folders[run.name] for run in missing])
    if config.resources.trial_workers is None:
        run_trainings(TrainingSession(config, context.resources, context.console), trainings, on_end)
    else:
        each, at_once = plan_trial_resources(context.resources, config.resources.trial_workers)
        train_side_by_side(TrainingSession(config, each, context.console), "headroom", trainings, at_once, on_end)
    for run in missing:
        if not folders[run.name].done():
            why = folders[run.name].folder.read_json(DIVERGED)["why"]
            raise Diverged(f"headroom of {run.target}: {why}")


def _write_training_sets(prepared: Folder, folders: Mapping[str, Folder], runs: Sequence[HeadroomRun]) -> None:
    of_pool = {run.name: run.rows for run in runs if run.by_sources}
    write_training_sets(prepared, {name: folders[name] for name in of_pool}, of_pool)
    for run in (run for run in runs if not run.by_sources):
        table = (prepared / "targets" / run.target).read_table("validation.parquet", EXAMPLE)
        order = pc.index_in(pa.array(run.rows, pa.string()), table["id"].combine_chunks())
        folders[run.name].write_table(TRAINING_SET, table.take(order))


def _evaluate(context: RunContext, planned: Sequence[HeadroomRun], folders: Mapping[str, StageFolder]) -> Cost:
    """Take the losses of base model and adapters on the validation rows, and of their answers where those count."""
    stage, prepare = context.stage(Headroom.name), context.stage("prepare")
    parts = {"": {run.target: f"{prepare.folder.name}/targets/{run.target}/validation.parquet" for run in planned}}
    if context.config.evaluation.form_and_content:
        items = context.stage("answers", VALIDATION).result(AnswersResult).items
        parts[ANSWERS] = {name: f"answers/{VALIDATION}/{name}.parquet" for name, count in items.items() if count}
    models: list[tuple[str, str, Folder | None]] = [(BASE, target, None) for target in context.config.targets]
    models += [(run.name, run.target, _adapter(folders[run.name])) for run in planned]
    sets = [
        EvaluationSet(name, target, tables[target], adapter, stage.folder / name, stage.folder, part)
        for part, tables in parts.items()
        for name, target, adapter in models
        if target in tables and not (stage.folder / f"{name}/{part}".rstrip("/")).exists(f"{target}.parquet")
    ]
    costs = evaluate_sets(context, sets, prepare.folder.parent).values()
    return Cost(tokens=sum(cost.tokens for cost in costs), peak_memory=max((c.peak_memory for c in costs), default=0))


def _adapter(run: StageFolder) -> Folder:
    return run.folder / run.result(TrainingResult).last


def _scores(folder: Folder, folds: Sequence[ScoredFold]) -> pa.Table:
    """Return a line a validation row and score: target, id, score, gain (of training, higher is better)."""
    lines: list[dict[str, object]] = []
    for fold in folds:
        scored = set(fold.rows)
        before, after = (_losses(folder / name, fold.target) for name in (BASE, fold.name))
        gains = {"loss": {row: before[row] - after[row] for row in fold.rows}}
        answers = read_gains(folder, fold.name, fold.target)
        if answers is not None:
            gains["content"] = dict(zip(answers.items, answers.content.tolist(), strict=True))
        if by_answers := score_gains(folder, fold):
            gains["accuracy"] = by_answers
        for score, by_row in gains.items():
            lines += [
                {"target": fold.target, "id": row, "score": score, "gain": gain}
                for row, gain in by_row.items()
                if row in scored
            ]
    kinds = {"target": pa.string(), "id": pa.string(), "score": pa.string(), "gain": pa.float64()}
    return pa.Table.from_pylist(lines, pa.schema(kinds))


def _losses(folder: Folder, target: str) -> dict[str, float]:
    table = folder.read_table(f"{target}.parquet", ["id", "loss"])
    return dict(zip(table["id"].to_pylist(), table["loss"].to_pylist(), strict=True))
