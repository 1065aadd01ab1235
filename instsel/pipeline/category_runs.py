"""Estimators *interventions* and *regression* of stage *interaction*: train, evaluate on every category, estimate."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pydantic import JsonValue

from instsel.choice.output import TRAINING_SET, write_training_sets
from instsel.config.mixture import Mixture
from instsel.errors import Diverged, InputError, StudyError
from instsel.io.fingerprint import fingerprint
from instsel.mixture import experiments
from instsel.mixture.categories import Categories
from instsel.mixture.experiments import (
    PlannedRun,
    Scores,
    effects_of_additions,
    effects_of_removals,
    subset_scores,
)
from instsel.pipeline.categorize import CATEGORIES, evaluation_file, mixture_of
from instsel.pipeline.evaluate import EvaluationSet, evaluate_sets
from instsel.pipeline.interaction import Estimate
from instsel.study.dependencies import training_of_runs
from instsel.study.folder import StageFolder
from instsel.study.results import CategoriesResult, CategoryRunResult, PrepareResult, TrainingResult
from instsel.study.stage import Cost, RunContext, Settings

if TYPE_CHECKING:
    from instsel.mixture.dependency import Dependency
    from instsel.mixture.interaction import Interaction
    from instsel.runtime.training_run import Trained

RUNS = "runs"
RUN = "interaction/run"
VERSION = 1
# Of what the estimator depends on, the part that a run does.
TRAINING = ("lora", "finetune", "evaluation")
LOSSES = "losses"
TRAINED = "trained.json"
TABLE = "runs.parquet"


def estimate(context: RunContext, estimator: str) -> Estimate:
    """Train and evaluate the runs that are not done, then estimate gamma and, from removals, who needs whom.

    Raises:
        InputError: the categories have too few rows for the runs.
        StudyError: nothing can be estimated from the runs that did not diverge.
    """
    mixture, stage = mixture_of(context.config), context.stage("interaction", estimator)
    categories, ids = read_categories(context.stage("categorize"))
    try:
        if estimator == "interventions":
            planned = experiments.interventions(categories, mixture.interventions)
        else:
            planned = experiments.subsets(categories, mixture.regression)
    except ValueError as error:
        raise InputError(f"mixture.{estimator}: {error}") from error
    folders = {run.name: _run_folder(context, stage, categories, run, ids) for run in planned}
    missing = [name for name, folder in folders.items() if not folder.done()]
    if len(missing) < len(folders):
        context.console.say(f"{len(folders) - len(missing)} of {len(folders)} runs were there already")
    _train(context, stage.name, planned, folders, ids)
    _evaluate(context, {name: folders[name] for name in missing}, categories.names)
    scores = _scores(planned, folders, len(categories.names))
    failed = [run.name for run, values in zip(planned, scores, strict=True) if values is None]
    if failed:
        context.console.say(f"{len(failed)} runs diverged and are left out: {', '.join(failed)}")
    stage.folder.write_table(TABLE, _table(planned, scores, categories.names))
    try:
        # What is unknown is named in the result.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            effects, dependency = _estimate(estimator, mixture, planned, scores)
    except ValueError as error:
        raise StudyError(f"mixture.{estimator}: {error}") from error
    costs = [folder.manifest()["cost"] for folder in folders.values()]
    cost = Cost(
        tokens=sum(cost["tokens"] for cost in costs), peak_memory=max(cost["peak_memory_bytes"] for cost in costs)
    )
    return Estimate(categories.names, effects, cost, dependency, len(planned), failed)


def read_categories(categorize: StageFolder) -> tuple[Categories, list[str]]:
    """Return the categories as stage *categorize* left them, and the ids of their rows."""
    table, result = categorize.folder.read_table(CATEGORIES), categorize.result(CategoriesResult)
    # Rows share the text of their category.
    labels = table["category"].combine_chunks().dictionary_encode().to_numpy(zero_copy_only=False)
    held, folds = table["held"].to_numpy(), table["fold"].to_numpy()
    return Categories(result.categories, labels, held, folds, result.merged), table["id"].to_pylist()


def _run_folder(
    context: RunContext, parent: StageFolder, categories: Categories, run: PlannedRun, ids: Sequence[str]
) -> StageFolder:
    """Return a run's folder, named by what it depends on: its rows, training, and what it is evaluated on.

    So it is kept when the estimator takes more runs or another threshold, and shared where estimators train alike.
    """
    evaluated = [
        [ids[row] for row in np.flatnonzero(categories.held & (categories.labels == name)).tolist()]
        for name in categories.names
    ]
    settings: Settings = {
        **{key: parent.settings[key] for key in TRAINING},
        "rows": [ids[row] for row in run.rows.tolist()],
        "evaluated": fingerprint(evaluated),
    }
    parents = [context.stage("prepare")]
    name = StageFolder(parent.folder, RUN, settings, parents, parent.inputs, VERSION).fingerprint
    return StageFolder(parent.folder.parent / RUNS / name, RUN, settings, parents, parent.inputs, VERSION)


def _train(
    context: RunContext,
    title: str,
    planned: Sequence[PlannedRun],
    folders: Mapping[str, StageFolder],
    ids: Sequence[str],
) -> None:
    """Train the runs that are neither done nor trained."""
    import ray

    from instsel.runtime.training import train_side_by_side
    from instsel.runtime.training_run import TrainingRun, TrainingSession
    from instsel.runtime.tune import plan_trial_resources

    config, prepare = context.config, context.stage("prepare")
    untrained = [
        run for run in planned if not folders[run.name].done() and not folders[run.name].folder.exists(TRAINED)
    ]
    each, at_once = plan_trial_resources(context.resources, config.resources.trial_workers)
    if not untrained:
        return
    for run in untrained:
        folders[run.name].start()
    rows = {run.name: [ids[row] for row in run.rows.tolist()] for run in untrained}
    outs = {run.name: folders[run.name].folder for run in untrained}
    ray.get(ray.remote(write_training_sets).remote(prepare.folder, outs, rows))
    training, pool = training_of_runs(config, mixture_of(config)), prepare.result(PrepareResult).pool
    runs = []
    for run in untrained:
        tokens = training.epochs * len(run.rows) * pool.tokens / pool.rows
        folder = folders[run.name]
        runs.append(TrainingRun(run.name, folder, training, (folder.folder, TRAINING_SET), tokens))
    on_end = partial(_write_outcome, folders=[folders[run.name] for run in untrained])
    train_side_by_side(TrainingSession(config, each, context.console), title, runs, at_once, on_end)


def _write_outcome(index: int, outcome: "Trained | Diverged", folders: Sequence[StageFolder]) -> None:
    """Write down what became of a run; one that diverged is done, and says so."""
    if isinstance(outcome, Diverged):
        record: dict[str, JsonValue] = {"failed": str(outcome)}
    else:
        record = {"result": outcome.result.model_dump(mode="json"), "cost": asdict(outcome.cost)}
    folders[index].folder.write_json(TRAINED, record)


def _evaluate(context: RunContext, folders: Mapping[str, StageFolder], names: Sequence[str]) -> None:
    """Evaluate the trained runs on every category, and commit them; adapters are removed then."""
    records = {name: folder.folder.read_json(TRAINED) for name, folder in folders.items()}
    trained = {
        name: TrainingResult.model_validate(record["result"])
        for name, record in records.items()
        if "failed" not in record
    }
    sets = []
    for name, result in trained.items():
        folder = folders[name].folder
        adapter, losses = folder / result.last, folder / LOSSES
        missing = [number for number in range(len(names)) if not losses.exists(f"{number:04d}.parquet")]
        sets += [
            EvaluationSet(name, f"{number:04d}", evaluation_file(number), adapter, losses, folder) for number in missing
        ]
    costs = evaluate_sets(context, sets, context.stage("categorize").folder)
    for name, stage in folders.items():
        if name not in trained:
            stage.commit(CategoryRunResult(failed=records[name]["failed"]))
            continue
        training, evaluation = Cost(**records[name]["cost"]), costs.get(name, Cost(seconds=0.0))
        cost = Cost(
            tokens=training.tokens + evaluation.tokens,
            peak_memory=max(training.peak_memory, evaluation.peak_memory),
            rows_reprocessed=training.rows_reprocessed,
            seconds=(training.seconds or 0.0) + (evaluation.seconds or 0.0),
        )
        stage.commit(CategoryRunResult(checkpoints=trained[name].checkpoints), cost)
        (stage.folder / trained[name].run).remove()


def _scores(planned: Sequence[PlannedRun], folders: Mapping[str, StageFolder], size: int) -> list[Scores | None]:
    """Return, of each run, the score of every row that a category is evaluated on; None for one that diverged."""
    scores: list[Scores | None] = []
    for run in planned:
        stage = folders[run.name]
        if stage.result(CategoryRunResult).failed is not None:
            scores.append(None)
            continue
        tables = [(stage.folder / LOSSES).read_table(f"{number:04d}.parquet") for number in range(size)]
        scores.append([-table["loss"].to_numpy() for table in tables])
    return scores


def _estimate(
    estimator: str, mixture: Mixture, planned: Sequence[PlannedRun], scores: Sequence[Scores | None]
) -> "tuple[Interaction, Dependency | None]":
    from instsel.mixture.dependency import dependencies
    from instsel.mixture.interaction import from_effects, from_subsets

    if estimator == "regression":
        included, subsets = subset_scores(planned, scores, mixture.regression.added_rows)
        return from_subsets(included, subsets, ridge=mixture.regression.ridge, threshold=mixture.threshold), None
    effects, errors = effects_of_additions(planned, scores, mixture.interventions.added_rows)
    interaction = from_effects(effects, errors=errors, threshold=mixture.threshold)
    if not mixture.interventions.removals:
        return interaction, None
    full, without, removal_errors = effects_of_removals(planned, scores, len(interaction.gamma))
    return interaction, dependencies(full, without, errors=removal_errors, threshold=mixture.threshold)


def _table(planned: Sequence[PlannedRun], scores: Sequence[Scores | None], names: Sequence[str]) -> pa.Table:
    """Return a line for each run and category: mean loss and its standard error."""
    rows = []
    for run, values in zip(planned, scores, strict=True):
        for name, each in zip(names, values or [], strict=bool(values)):
            rows.append(
                {
                    "run": run.name,
                    "kind": run.kind,
                    "sample": run.sample,
                    "category": None if run.category is None else names[run.category],
                    "rows": len(run.rows),
                    "evaluated": name,
                    "loss": -float(each.mean()),
                    "error": float(each.std(ddof=1) / np.sqrt(len(each))),
                }
            )
    return pa.Table.from_pylist(rows)
