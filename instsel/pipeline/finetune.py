"""Stage *finetune*: the base model trained on one selection; every run has the same settings."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from instsel.choice.data import group_labels
from instsel.choice.output import TRAINING_SET
from instsel.config.mixture import Curriculum
from instsel.config.study import StudyConfig
from instsel.errors import Diverged, InputError
from instsel.mixture.categories import OTHER
from instsel.mixture.curriculum import most_held_back, passes
from instsel.mixture.dependency import INTERMEDIATE, LEVELS
from instsel.pipeline.planned import planned_rows
from instsel.pipeline.probes import training_probe
from instsel.study import dependencies
from instsel.study.estimates import training_estimate
from instsel.study.folder import StageFolder
from instsel.study.reader import StudyReader
from instsel.study.results import SelectResult, TrainingResult
from instsel.study.runs import Run, runs_of
from instsel.study.stage import PlanContext, RunContext, Settings, Stage, StageEstimate, StageKey

if TYPE_CHECKING:
    from instsel.runtime.training_run import Trained, TrainingRun


DIVERGED = "diverged.json"


class Finetune(Stage[TrainingResult]):
    """Train on every selection, one folder a run."""

    name = "finetune"
    position = 110
    per_trial = True

    def keys(self, config: StudyConfig) -> list[str]:
        return list(runs_of(config))

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        run = runs_of(config)[key]
        return [StageKey("select", run.selection), *_levels(config, run)]

    def settings(self, config: StudyConfig, key: str) -> Settings:
        run = runs_of(config)[key]
        training = {**dependencies.training_settings(config.finetune), "seed": config.finetune.seed + run.seed}
        order: Settings = {}
        if run.method.order != "shuffled":
            order = {"order": run.method.order, "curriculum": config.curriculum.model_dump(mode="json")}
        return {**dependencies.adapter_settings(config), "finetune": training, **order}

    def inputs(self, config: StudyConfig, key: str) -> Settings:
        return dependencies.training_inputs(config)

    def run(self, context: RunContext, keys: Sequence[str]) -> None:
        """Train the runs: one after another by workers on the whole cluster, or side by side.

        Side by side where `resources.trial_workers` says how many workers a run has. A run that diverges does not end
        the others.

        Raises:
            Diverged: a run did.
            InputError: a run's order or DeepSpeed's configuration is invalid; raised before any run is trained.
        """
        from instsel.runtime.training import run_trainings, train_side_by_side
        from instsel.runtime.training_run import TrainingSession
        from instsel.runtime.tune import plan_trial_resources

        config, runs = context.config, [context.graph.runs[key] for key in keys]
        for run in runs:
            if run.method.order != "shuffled":
                order_of_rows(context, run)
        context.console.head(f"finetune {', '.join(keys)}")
        trainings = [start_run(context, run) for run in runs]
        folders = [context.stage(self.name, key) for key in keys]
        on_end = partial(commit_run, folders=folders)
        if config.resources.trial_workers is None:
            run_trainings(TrainingSession(config, context.resources, context.console), trainings, on_end)
        else:
            each, at_once = plan_trial_resources(context.resources, config.resources.trial_workers)
            session = TrainingSession(config, each, context.console)
            train_side_by_side(session, self.name, trainings, at_once, on_end)
        for key, folder in zip(keys, folders, strict=True):
            if not folder.done():
                raise Diverged(f"finetune {key}: {folder.folder.read_json(DIVERGED)['why']}")

    def estimate(self, context: PlanContext, keys: Sequence[str]) -> StageEstimate:
        probe = training_probe(self.name, context.config, context.config.finetune)
        runs = runs_of(context.config)
        return training_estimate(context, probe, [planned_rows(context, runs[key]) for key in keys])


def _levels(config: StudyConfig, run: Run) -> list[StageKey]:
    """Return the stages of categories that the order of training reads."""
    if run.method.order == "shuffled":
        return []
    by_dependencies = config.curriculum.levels == "dependencies"
    return [StageKey("categorize"), *([StageKey("interaction", "interventions")] if by_dependencies else [])]


def commit_run(index: int, outcome: "Trained | Diverged", folders: Sequence[StageFolder]) -> None:
    """Make a stage done whose run has ended, or write down why it has not."""
    if isinstance(outcome, Diverged):
        folders[index].folder.write_json(DIVERGED, {"why": str(outcome)})
        return
    folders[index].commit(outcome.result, outcome.cost)


def train_until(context: RunContext, run: Run, epoch: int) -> TrainingResult:
    """Train a run through an epoch; the next call resumes from there."""
    from instsel.runtime.training import run_training
    from instsel.runtime.training_run import TrainingSession

    session = TrainingSession(context.config, context.resources, context.console)
    return run_training(session, start_run(context, run), epoch).result


def start_run(context: RunContext, run: Run) -> "TrainingRun":
    """Make a run's folder ready, with the order of its rows where it has one; its seed is added to that of training."""
    from instsel.runtime.training_run import TrainingRun
    from instsel.training.dataset import write_order

    folder, selection = context.stage("finetune", run.name), context.stage("select", run.selection)
    folder.start()
    finetune = context.config.finetune
    settings = finetune.model_copy(update={"seed": finetune.seed + run.seed})
    if run.method.order != "shuffled":
        ids, levels, order = order_of_rows(context, run)
        write_order(folder.folder, order, ids, levels)
    tokens = settings.epochs * selection.result(SelectResult).trained.tokens
    return TrainingRun(folder.name, folder, settings, (selection.folder, TRAINING_SET), tokens)


def order_of_rows(context: RunContext, run: Run) -> tuple[list[str], NDArray[np.int64], list[NDArray[np.int64]]]:
    """Return the order in which a curriculum has the rows: their ids, their levels, and the row indices of each pass.

    Where `held_back` is not given, three_pass holds back as many rows as the levels allow, at most a tenth.

    Raises:
        InputError: the levels do not allow the order.
    """
    config, selection = context.config, context.stage("select", run.selection)
    ids = selection.folder.read_table(TRAINING_SET, ["id"])["id"].to_pylist()
    levels = levels_of_rows(config.curriculum, context.study, ids)
    early, middle, late = np.bincount(levels, minlength=3).tolist()
    sizes = f"{early} rows are preliminary, {middle} intermediate and {late} subsequent"
    held = config.curriculum.held_back
    if run.method.order == "three_pass" and held is None:
        held = min(most_held_back(len(ids)), early, late)
        if not min(early, late):
            raise InputError(
                f"{run.name}: three_pass needs preliminary and subsequent rows, and {sizes}; give curriculum.levels, "
                "or another order"
            )
    seed = config.finetune.seed + run.seed
    try:
        return ids, levels, passes(levels, run.method.order, config.finetune.epochs, seed=seed, held_back=held)
    except ValueError as error:
        raise InputError(f"{run.name}: {error}; {sizes}") from error


def levels_of_rows(curriculum: Curriculum, reader: StudyReader, ids: Sequence[str]) -> NDArray[np.int64]:
    """Return levels of rows by their categories, int64 (N,): 0 preliminary, 1 intermediate, 2 subsequent.

    Args:
        curriculum: whether levels are by dependencies, or which the user gave.
        reader: the study, with its categories, and with interventions where levels are by dependencies.
        ids: of the rows.

    Raises:
        InputError: levels are given to a category that is not there.
    """
    if curriculum.levels == "dependencies":
        dependency = reader.interaction("interventions").dependency
        assert dependency is not None
        level_of: Mapping[str, str] = dependency.levels
    else:
        level_of = curriculum.levels
        known = {*reader.categories.dictionary.to_pylist(), OTHER}
        unknown = sorted(set(level_of) - known)
        if unknown:
            raise InputError(
                f"curriculum.levels names {unknown[0]!r}, which is no category; they are {', '.join(sorted(known))}"
            )
    number = {name: LEVELS.index(level) for name, level in level_of.items()}
    categories = group_labels(reader, "category", ids)
    levels = np.array([number.get(name, INTERMEDIATE) for name in categories.dictionary.to_pylist()], dtype=np.int64)
    taken: NDArray[np.int64] = levels[np.asarray(categories.indices)]
    return taken
