"""Stage *finetune*: the base model trained on one selection; every run has the same settings."""

from instsel.choice.rows import TRAINING_SET
from instsel.config import StudyConfig
from instsel.progress import Terminal
from instsel.stages.session import Allotment
from instsel.stages.training import run_training
from instsel.study import Stage


def run(study: StudyConfig, stage: Stage, selection: Stage, seed: int, allot: Allotment, terminal: Terminal) -> None:
    """Train on the selection's rows and name the checkpoints; `seed` is added to the settings' own."""
    stage.begin()
    settings = study.finetune.model_copy(update={"seed": study.finetune.seed + seed})
    trained = run_training(study, stage, settings, (selection.folder, TRAINING_SET), allot, terminal)
    stage.commit(trained.result, tokens=trained.tokens, peak_memory=trained.peak_memory)
