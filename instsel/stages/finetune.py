"""Stage *finetune*: the base model trained on one selection; every run has the same settings."""

import numpy as np

from instsel.choice.inputs import Inputs
from instsel.choice.levels import levels_of_rows
from instsel.choice.rows import TRAINING_SET
from instsel.config import StudyConfig
from instsel.errors import InputError
from instsel.mixture.curriculum import passes
from instsel.progress import Terminal
from instsel.stages.graph import Run
from instsel.stages.session import Allotment
from instsel.stages.training import Trained, run_training
from instsel.study import Stage
from instsel.training.order import write_order


def run(
    study: StudyConfig, stage: Stage, selection: Stage, by: Run, inputs: Inputs, allot: Allotment, terminal: Terminal
) -> None:
    """Train on the selection's rows and name the checkpoints; the run's seed is added to the settings' own."""
    trained = train(study, stage, selection, by, inputs, allot, terminal)
    stage.commit(trained.result, tokens=trained.tokens, peak_memory=trained.peak_memory)


def train(
    study: StudyConfig,
    stage: Stage,
    selection: Stage,
    by: Run,
    inputs: Inputs,
    allot: Allotment,
    terminal: Terminal,
    until: int | None = None,
) -> Trained:
    """Train, through epoch `until` where it is given; the next call goes on from there."""
    stage.begin()
    settings = study.finetune.model_copy(update={"seed": study.finetune.seed + by.seed})
    if by.method.order != "shuffled":
        _order(study, stage, selection, by, inputs, settings.seed)
    return run_training(study, stage, settings, (selection.folder, TRAINING_SET), allot, terminal, until)


def _order(study: StudyConfig, stage: Stage, selection: Stage, by: Run, inputs: Inputs, seed: int) -> None:
    """Write the order in which a curriculum has the rows."""
    ids = selection.folder.read_table(TRAINING_SET, ["id"])["id"].to_pylist()
    levels = levels_of_rows(study.curriculum, inputs, ids)
    try:
        made = passes(levels, by.method.order, study.finetune.epochs, seed=seed, held_back=study.curriculum.held_back)
    except ValueError as error:
        sizes = np.bincount(levels, minlength=3).tolist()
        raise InputError(f"{by.name}: {error} (rows of each level: {sizes})") from error
    write_order(stage.folder, made, ids, levels)
