"""Estimators *interventions* and *regression* of stage *interaction*: train, evaluate on every category, estimate."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from instsel.choice.output import TRAINING_SET, write_training_sets
from instsel.config.mixture import Estimator, Mixture
from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.errors import Diverged, InputError, StudyError
from instsel.io.fingerprint import fingerprint
from instsel.mixture import experiments as design
from instsel.mixture.categories import Categories
from instsel.mixture.dependency import Dependency, dependencies
from instsel.mixture.experiments import PlannedRun, Scores, effects_of_additions, effects_of_removals, subset_scores
from instsel.mixture.interaction import Interaction, from_effects, from_subsets
from instsel.pipeline import interaction
from instsel.pipeline.categorize import TAGS, evaluation_file
from instsel.pipeline.evaluate import adapter_of, evaluate_sets
from instsel.runtime.session import ResourcePlan
from instsel.runtime.training import train_side_by_side
from instsel.runtime.training_run import Trained, TrainingRun, TrainingSession
from instsel.runtime.tune import plan_trial_resources
from instsel.study.dependencies import training_of_runs
from instsel.study.folder import StageFolder

RUNS = "runs"
RUN = "interaction/run"
# Of what the estimator depends on, the part that a run does.
TRAINING = ("model", "lora", "deepspeed", "finetune", "evaluation")
LOSSES = "losses"
TRAINED = "trained.json"
TABLE = "runs.parquet"


def run(
    study: StudyConfig,
    estimator: Estimator,
    stage: StageFolder,
    tag: StageFolder,
    prepare: StageFolder,
    resources: ResourcePlan,
    terminal: Terminal,
) -> None:
    """Train and evaluate the runs that are not done, then estimate gamma and, from removals, who needs whom."""
    stage.start()
    mixture = study.mixture
    assert mixture is not None
    categories, ids = read_categories(tag)
    try:
        if estimator == "interventions":
            planned = design.interventions(categories, mixture.interventions)
        else:
            planned = design.subsets(categories, mixture.regression)
    except ValueError as error:
        raise InputError(f"mixture.{estimator}: {error}") from error
    stages = {one.name: _stage(stage, prepare, categories, one, ids) for one in planned}
    todo = [name for name, made in stages.items() if not made.done()]
    if len(todo) < len(stages):
        terminal.say(f"{len(stages) - len(todo)} of {len(stages)} runs were there already")
    untrained = [name for name in todo if not _trained(stages[name])]
    _lay_out(stage, planned, stages, untrained, ids, prepare)
    each, at_once = plan_trial_resources(resources, study.resources.trial_workers)
    if untrained:
        training = training_of_runs(study, mixture)
        pool = prepare.manifest()["result"]["pool"]
        tokens = {one.name: training.epochs * len(one.rows) * pool["tokens"] / pool["rows"] for one in planned}
        runs = [
            TrainingRun(name, stages[name], training, (stages[name].folder, TRAINING_SET), tokens[name])
            for name in untrained
        ]
        note = partial(_note, stages=[stages[name] for name in untrained])
        train_side_by_side(TrainingSession(study, each, terminal), stage.name, runs, at_once, note)
    _evaluate(study, stages, todo, categories.names, tag, resources, terminal)
    scores = _scores(planned, stages, len(categories.names))
    failed = [one.name for one, values in zip(planned, scores, strict=True) if values is None]
    if failed:
        terminal.say(f"{len(failed)} runs diverged and are left out: {', '.join(failed)}")
    stage.folder.write_table(TABLE, _table(planned, scores, categories.names))
    try:
        # What is unknown is named in the result.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found, dependency = _estimate(estimator, mixture, planned, scores)
    except ValueError as error:
        raise StudyError(f"mixture.{estimator}: {error}") from error
    costs = [made.manifest()["cost"] for made in stages.values()]
    interaction.commit(
        stage,
        list(categories.names),
        found,
        dependency,
        {"runs": len(planned), "failed": failed},
        tokens=sum(cost["tokens"] for cost in costs),
        peak_memory=max(cost["peak_memory_bytes"] for cost in costs),
        terminal=terminal,
    )


def read_categories(tag: StageFolder) -> tuple[Categories, list[str]]:
    """The categories as stage *tag* left them, and the ids of their rows."""
    table = tag.folder.read_table(TAGS)
    result = tag.manifest()["result"]
    labels = np.array(table["category"].to_pylist(), dtype=np.str_)
    held, folds = table["held"].to_numpy(), table["fold"].to_numpy()
    return Categories(result["categories"], labels, held, folds, result["gathered"]), table["id"].to_pylist()


def _stage(
    parent: StageFolder, prepare: StageFolder, categories: Categories, one: PlannedRun, ids: Sequence[str]
) -> StageFolder:
    """A run's own stage, in a folder named by what it depends on: its rows, training, and what it is evaluated on.

    So it is kept when the estimator takes more runs or another threshold, and shared where estimators train alike.
    """
    evaluated = [
        [ids[place] for place in np.flatnonzero(categories.held & (categories.labels == name)).tolist()]
        for name in categories.names
    ]
    config = {
        **{key: parent.config[key] for key in TRAINING},
        "rows": [ids[place] for place in one.rows.tolist()],
        "evaluated": fingerprint(evaluated),
    }
    name = StageFolder(parent.folder, RUN, config, [prepare]).fingerprint
    return StageFolder(parent.folder.parent / RUNS / name, RUN, config, [prepare])


def _trained(stage: StageFolder) -> bool:
    return stage.folder.exists(TRAINED)


def _lay_out(
    stage: StageFolder,
    planned: Sequence[PlannedRun],
    stages: dict[str, StageFolder],
    names: Sequence[str],
    ids: Sequence[str],
    prepare: StageFolder,
) -> None:
    """Write the training sets of runs."""
    for name in names:
        stages[name].start()
    wanted = set(names)
    sets = {one.name: [ids[place] for place in one.rows.tolist()] for one in planned if one.name in wanted}
    writing: Any = ray.remote(write_training_sets)
    ray.get(writing.remote(prepare.folder, {name: stages[name].folder for name in names}, sets))


def _note(place: int, outcome: Trained | Diverged, stages: Sequence[StageFolder]) -> None:
    """Write down what became of a run; one that diverged is done, and says so."""
    if isinstance(outcome, Diverged):
        told: dict[str, Any] = {"failed": str(outcome)}
    else:
        told = {**outcome.result, "cost": outcome.cost}
    stages[place].folder.write_json(TRAINED, told)


def _evaluate(
    study: StudyConfig,
    stages: dict[str, StageFolder],
    todo: Sequence[str],
    names: Sequence[str],
    tag: StageFolder,
    resources: ResourcePlan,
    terminal: Terminal,
) -> None:
    """Evaluate the trained runs on every category, and commit them; adapters are removed then."""
    told = {name: stages[name].folder.read_json(TRAINED) for name in todo}
    good = [name for name in todo if "failed" not in told[name]]
    items = [
        {"run": name, "target": f"{number:04d}", "rows": evaluation_file(number)}
        for name in good
        for number in range(len(names))
        if not (stages[name].folder / LOSSES).exists(f"{number:04d}.parquet")
    ]
    places = {name: (adapter_of(stages[name].folder, told[name]), stages[name].folder / LOSSES) for name in good}
    folders = {name: stages[name].folder for name in good}
    spent = evaluate_sets(study, items, places, tag.folder, resources, terminal, folders)
    for name in todo:
        stage, trained = stages[name], told[name]
        if "failed" in trained:
            stage.commit({"failed": trained["failed"]})
            continue
        cost = trained["cost"]
        if name in spent:
            cost["tokens"] += spent[name].tokens
            cost["seconds"] = (cost["seconds"] or 0.0) + spent[name].seconds
            cost["peak_memory"] = max(cost["peak_memory"], spent[name].peak_memory)
        stage.commit({"checkpoints": trained["checkpoints"]}, **cost)
        (stage.folder / trained["run"]).remove()


def _scores(planned: Sequence[PlannedRun], stages: dict[str, StageFolder], size: int) -> list[Scores | None]:
    """Of each run, the score of every row that a category is evaluated on; None for one that diverged."""
    found: list[Scores | None] = []
    for one in planned:
        stage = stages[one.name]
        if "failed" in stage.manifest()["result"]:
            found.append(None)
            continue
        tables = [(stage.folder / LOSSES).read_table(f"{number:04d}.parquet") for number in range(size)]
        found.append([-table["loss"].to_numpy() for table in tables])
    return found


def _estimate(
    estimator: Estimator, mixture: Mixture, planned: Sequence[PlannedRun], scores: Sequence[Scores | None]
) -> tuple[Interaction, Dependency | None]:
    if estimator == "regression":
        included, seen = subset_scores(planned, scores, mixture.regression.added_rows)
        return from_subsets(included, seen, ridge=mixture.regression.ridge, threshold=mixture.threshold), None
    effects, errors = effects_of_additions(planned, scores, mixture.interventions.added_rows)
    found = from_effects(effects, errors=errors, threshold=mixture.threshold)
    if not mixture.interventions.removals:
        return found, None
    full, without, unsure = effects_of_removals(planned, scores, len(found.gamma))
    return found, dependencies(full, without, errors=unsure, threshold=mixture.threshold)


def _table(planned: Sequence[PlannedRun], scores: Sequence[Scores | None], names: Sequence[str]) -> pa.Table:
    """A line a run and category: mean loss and its standard error."""
    rows = []
    for one, values in zip(planned, scores, strict=True):
        for name, each in zip(names, values or [], strict=bool(values)):
            rows.append(
                {
                    "run": one.name,
                    "kind": one.kind,
                    "sample": one.sample,
                    "category": None if one.category is None else names[one.category],
                    "rows": len(one.rows),
                    "evaluated": name,
                    "loss": -float(each.mean()),
                    "error": float(each.std(ddof=1) / np.sqrt(len(each))),
                }
            )
    return pa.Table.from_pylist(rows)
