"""Stage *finetune*: the base model trained on one selection; every run has the same settings and seeds."""

from instsel.config import StudyConfig
from instsel.progress import Terminal
from instsel.stages.select import TRAINING_SET
from instsel.stages.session import Allotment
from instsel.stages.training import run_training
from instsel.study import Stage


def run(study: StudyConfig, stage: Stage, selection: Stage, allot: Allotment, terminal: Terminal) -> None:
    """Train on the selection's rows and name the checkpoints."""
    stage.begin()
    trained = run_training(study, stage, study.finetune, (selection.folder, TRAINING_SET), allot, terminal)
    stage.commit(trained.result, tokens=trained.tokens, peak_memory=trained.peak_memory)
