"""Stage *finetune*: the base model trained on one selection; every run has the same settings."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from instsel.choice.levels import levels_of_rows
from instsel.choice.output import TRAINING_SET
from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.errors import Diverged, InputError
from instsel.mixture.curriculum import most_held_back, passes
from instsel.runtime.session import ResourcePlan
from instsel.runtime.training import run_training, run_trainings, train_side_by_side
from instsel.runtime.training_run import Trained, TrainingRun, TrainingSession
from instsel.runtime.tune import plan_trial_resources
from instsel.study.folder import StageFolder
from instsel.study.graph import Graph, Run
from instsel.study.reader import StudyReader
from instsel.training.dataset import write_order

DIVERGED = "diverged.json"


def run_all(
    study: StudyConfig,
    graph: Graph,
    names: Sequence[str],
    reader: StudyReader,
    resources: ResourcePlan,
    terminal: Terminal,
) -> None:
    """Train the named runs: one after another by workers on the whole cluster, or side by side.

    Side by side where `resources.trial_workers` says how many workers a run has. A run that diverges does not end the
    others.

    Raises:
        Diverged: a run did.
        InputError: a run's order or DeepSpeed's configuration cannot be; told before any run is trained.
    """
    if not names:
        return
    runs = [graph.runs[name] for name in names]
    for one in runs:
        if one.method.order != "shuffled":
            order_of(study, graph.select[one.selection], one, reader)
    terminal.head(f"finetune {', '.join(names)}")
    trainings = [start(study, graph.finetune[one.name], graph.select[one.selection], one, reader) for one in runs]
    on_end = partial(_commit, stages=[graph.finetune[name] for name in names])
    if study.resources.trial_workers is None:
        run_trainings(TrainingSession(study, resources, terminal), trainings, on_end)
    else:
        each, at_once = plan_trial_resources(resources, study.resources.trial_workers)
        train_side_by_side(TrainingSession(study, each, terminal), "finetune", trainings, at_once, on_end)
    for name in names:
        folder = graph.finetune[name].folder
        if not graph.finetune[name].done():
            raise Diverged(f"finetune {name}: {folder.read_json(DIVERGED)['why']}")


def _commit(place: int, outcome: Trained | Diverged, stages: Sequence[StageFolder]) -> None:
    """Make a stage done whose run has ended, or write down why it has not."""
    if isinstance(outcome, Diverged):
        stages[place].folder.write_json(DIVERGED, {"why": str(outcome)})
        return
    stages[place].commit(outcome.result, **outcome.cost)


def run(
    study: StudyConfig,
    stage: StageFolder,
    selection: StageFolder,
    by: Run,
    reader: StudyReader,
    resources: ResourcePlan,
    terminal: Terminal,
) -> None:
    """Train on the selection's rows and name the checkpoints; the run's seed is added to the settings' own."""
    trained = train(study, stage, selection, by, reader, resources, terminal)
    stage.commit(trained.result, **trained.cost)


def train(
    study: StudyConfig,
    stage: StageFolder,
    selection: StageFolder,
    by: Run,
    reader: StudyReader,
    resources: ResourcePlan,
    terminal: Terminal,
    until: int | None = None,
) -> Trained:
    """Train, through epoch `until` where it is given; the next call goes on from there."""
    session = TrainingSession(study, resources, terminal)
    return run_training(session, start(study, stage, selection, by, reader), until)


def start(study: StudyConfig, stage: StageFolder, selection: StageFolder, by: Run, reader: StudyReader) -> TrainingRun:
    """Make a run's stage ready, with the order of its rows where it has one of its own."""
    stage.start()
    settings = study.finetune.model_copy(update={"seed": study.finetune.seed + by.seed})
    if by.method.order != "shuffled":
        ids, levels, order = order_of(study, selection, by, reader)
        write_order(stage.folder, order, ids, levels)
    tokens = settings.epochs * selection.manifest()["result"]["tokens"]
    return TrainingRun(stage.name, stage, settings, (selection.folder, TRAINING_SET), tokens)


def order_of(
    study: StudyConfig, selection: StageFolder, by: Run, reader: StudyReader
) -> tuple[list[str], NDArray[np.int64], list[NDArray[np.int64]]]:
    """The order in which a curriculum has the rows: their ids, their levels, and the places of each pass.

    Where `held_back` is not given, three_pass holds back as many rows as the levels allow, at most a tenth.

    Raises:
        InputError: the levels do not allow the order.
    """
    ids = selection.folder.read_table(TRAINING_SET, ["id"])["id"].to_pylist()
    levels = levels_of_rows(study.curriculum, reader, ids)
    early, middle, late = np.bincount(levels, minlength=3).tolist()
    sizes = f"{early} rows are preliminary, {middle} intermediate and {late} subsequent"
    held = study.curriculum.held_back
    if by.method.order == "three_pass" and held is None:
        held = min(most_held_back(len(ids)), early, late)
        if not min(early, late):
            raise InputError(
                f"{by.name}: three_pass needs preliminary and subsequent rows, and {sizes}; give curriculum.levels, "
                "or another order"
            )
    seed = study.finetune.seed + by.seed
    try:
        return ids, levels, passes(levels, by.method.order, study.finetune.epochs, seed=seed, held_back=held)
    except ValueError as error:
        raise InputError(f"{by.name}: {error}; {sizes}") from error
