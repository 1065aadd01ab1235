"""Training runs as their callers describe them, and what they leave."""

from collections.abc import Callable
from dataclasses import dataclass

from instsel.config.study import StudyConfig
from instsel.config.training import Training
from instsel.console import Terminal
from instsel.errors import Diverged
from instsel.io.store import Folder
from instsel.study.folder import Cost, StageFolder
from instsel.study.resources import ResourcePlan
from instsel.study.results import TrainingResult

# Folder of a run's checkpoints in that of its stage, and what is in each of them beside the weights.
RUN = "run"
METRICS = "metrics.json"


def checkpoint_names(epochs: int) -> list[str]:
    """Return the names of the checkpoints of so many epochs."""
    return [f"epoch-{epoch}" for epoch in range(1, epochs + 1)]


@dataclass(frozen=True)
class TrainingSession:
    """What all training runs of a call have in common.

    Attributes:
        config: model, LoRA and DeepSpeed settings, and how many worker failures to survive.
        resources: number of workers and what each holds.
        console: where progress is shown.
    """

    config: StudyConfig
    resources: ResourcePlan
    console: Terminal


@dataclass(frozen=True)
class TrainingRun:
    """A training of fresh LoRA matrices on a set of rows.

    Attributes:
        name: as it is shown to a person.
        stage: whose folder the checkpoints go to, `run/epoch-N`. If it has an order (`training.order`), the rows come
            in that order, else in an order drawn from the seed.
        training: epochs, learning rate and the like.
        training_set: folder and name of the Arrow file of examples.
        tokens: of all epochs, about.
    """

    name: str
    stage: StageFolder
    training: Training
    training_set: tuple[Folder, str]
    tokens: float


@dataclass(frozen=True)
class Trained:
    """A training run that has ended.

    Attributes:
        result: its checkpoints, which are the stage's result or a part of it.
        tokens: through the model in this call.
        peak_memory: highest memory of the first worker, bytes.
        rows_reprocessed: rows of steps that were repeated after a failure, in all calls.
        seconds: since the end of the run before it in its group.
    """

    result: TrainingResult
    tokens: int
    peak_memory: int
    rows_reprocessed: int = 0
    seconds: float | None = None

    @property
    def cost(self) -> Cost:
        """Return what `StageFolder.commit` takes."""
        return Cost(self.tokens, self.peak_memory, self.rows_reprocessed, self.seconds)


OnEnd = Callable[[int, Trained | Diverged], None]
"""Takes a run's index among those of the call, and its outcome."""
