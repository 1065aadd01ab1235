"""How far training runs are: their workers write it down, the driver shows it, and a restart counts from it."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from instsel.io.store import Folder
from instsel.runtime.observability import Meter
from instsel.runtime.session import here
from instsel.runtime.training_worker import METRICS
from instsel.tracking import Tracked
from instsel.training.schedule import Step

PROGRESS = "progress.json"
WRITE_SECONDS = 1.0


@dataclass
class RunProgress:
    """What is known of one run.

    Attributes:
        step: furthest step of the run so far, by whichever start of it.
        steps: steps of the whole run; None before the first one of this call.
        rows_reprocessed: rows of steps that were taken before, and again after a worker or the driver was lost. What
            the
            last second before a lost driver did is not counted.
        tokens: through the model in this call.
        peak_memory: highest memory of the first worker, bytes.
        ended: seconds of this call after which the run came to its end, or to that of this call; None before.
        failure: why it diverged; None if it did not.
    """

    step: int = 0
    steps: int | None = None
    rows_reprocessed: int = 0
    tokens: int = 0
    peak_memory: int = 0
    ended: float | None = None
    failure: str | None = None


@dataclass
class Snapshot:
    """What happened since the last snapshot.

    Attributes:
        runs: every run, by its place among those of this call.
        steps: the steps taken, in their order: place of the run, the time when it was told, seconds, and the step.
    """

    runs: list[RunProgress]
    steps: list[tuple[int, float, Step]] = field(default_factory=list)


class ProgressActor:
    """Counts the steps of some runs over all their starts, in a process beside the driver."""

    def __init__(self, folders: list[Folder]) -> None:
        """Go on counting from what earlier calls left.

        Args:
            folders: of the runs' stages.
        """
        self._folders = folders
        self._runs = [_kept(folder) for folder in folders]
        self._news: list[tuple[int, float, Step]] = []
        self._began = time.monotonic()
        self._written = [self._began] * len(folders)

    def count(self, run: int, step: Step, peak_memory: int) -> None:
        """Count a step that a worker has just taken."""
        seen = self._runs[run]
        if step.number <= seen.step:
            seen.rows_reprocessed += step.rows
        seen.step, seen.steps = max(seen.step, step.number), step.of
        seen.tokens += step.tokens
        seen.peak_memory = max(seen.peak_memory, peak_memory)
        self._news.append((run, time.monotonic(), step))
        if time.monotonic() - self._written[run] > WRITE_SECONDS:
            self._write(run)

    def end(self, run: int, failure: str | None = None) -> None:
        """Note that a run came to its end, or why it diverged, and keep what a later call has to know."""
        seen = self._runs[run]
        if seen.ended is None:
            seen.ended, seen.failure = time.monotonic() - self._began, failure
        self._write(run)

    def has_ended(self, run: int) -> bool:
        """Whether a run came to its end in this call, or diverged."""
        return self._runs[run].ended is not None

    def take(self, runs: Collection[int]) -> Snapshot:
        """The state of every run, and the steps of some of them since these were last asked for."""
        steps = [item for item in self._news if item[0] in runs]
        self._news = [item for item in self._news if item[0] not in runs]
        return Snapshot(self._runs, steps)

    def _write(self, run: int) -> None:
        seen = self._runs[run]
        self._folders[run].write_json(PROGRESS, {"step": seen.step, "rows_reprocessed": seen.rows_reprocessed})
        self._written[run] = time.monotonic()


def progress_actor(folders: list[Folder]) -> Any:
    """A `ProgressActor` as a Ray actor on the driver's machine, which is there as long as the driver is."""
    return ray.remote(num_cpus=0)(ProgressActor).options(scheduling_strategy=here()).remote(folders)


def _kept(folder: Folder) -> RunProgress:
    """What earlier calls left of a run's count."""
    if not folder.exists(PROGRESS):
        return RunProgress()
    kept = folder.read_json(PROGRESS)
    return RunProgress(step=kept["step"], rows_reprocessed=kept["rows_reprocessed"])


class TrainingLogger:
    """Logs steps in the order in which they were taken."""

    def __init__(self, meter: Meter, run: Tracked) -> None:
        self.meter, self.run = meter, run
        self.last: float | None = None

    def log_step(self, moment: float, step: Step) -> None:
        """Log a step that was taken at this time, seconds."""
        self.meter.show_step(step)
        values = {"loss": step.loss, "learning_rate": step.learning_rate}
        if self.last is not None and moment > self.last:
            values["tokens_per_second"] = step.tokens / (moment - self.last)
        self.run.log(values, step.number)
        self.last = moment

    def log_epochs(self, checkpoints: Folder, names: Sequence[str]) -> None:
        """Send the trackers the mean loss of each epoch, by what its checkpoint says."""
        for name in names:
            metrics = (checkpoints / name).read_json(METRICS)
            self.run.log({"epoch": metrics["epoch"], "epoch_loss": metrics["loss"]}, metrics["step"])
