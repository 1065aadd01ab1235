"""Progress of training runs: steps that the driver shows, and checkpoints inside an epoch to resume from."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import ray

from instsel.io.store import Folder
from instsel.runtime.observability import Meter
from instsel.runtime.session import on_this_node
from instsel.runtime.training_run import METRICS
from instsel.tracking import Tracked
from instsel.training.schedule import STATE, Step

PROGRESS = "progress.json"
WRITE_SECONDS = 1.0
STEP_CHECKPOINTS = "step-checkpoints"
LATEST = "latest.json"
WORKERS = "workers.json"


@dataclass
class RunProgress:
    """Progress of a run.

    Attributes:
        step: furthest step of the run so far, in whichever attempt.
        steps: steps of the whole run; None before the first one of this call.
        rows_reprocessed: rows of steps that were repeated after a worker or the driver was lost. Steps of the last
            second before the driver was lost are not counted.
        tokens: through the model in this call.
        peak_memory: highest memory of the first worker, bytes.
        ended: seconds of this call after which the run reached its end, or the end of this call; None before.
        failure: why it diverged; None if it did not.
        stopped: whether the driver no longer wants the run.
    """

    step: int = 0
    steps: int | None = None
    rows_reprocessed: int = 0
    tokens: int = 0
    peak_memory: int = 0
    ended: float | None = None
    failure: str | None = None
    stopped: bool = False


class StepEvent(NamedTuple):
    """A step that a run has taken, and the time at which it was reported, seconds."""

    run: int
    moment: float
    step: Step


@dataclass
class Snapshot:
    """The state of the runs.

    Attributes:
        runs: every run, by its index among those of this call.
        events: steps since the last snapshot, in their order.
    """

    runs: list[RunProgress]
    events: list[StepEvent] = field(default_factory=list)


class ProgressActor:
    """Counts the steps of some runs over all their attempts, in a process beside the driver."""

    def __init__(self, folders: list[Folder]) -> None:
        """Continue the counts that earlier calls left.

        Args:
            folders: of the runs' stages.
        """
        self._folders = folders
        self._runs = [_read_progress(folder) for folder in folders]
        self._events: list[StepEvent] = []
        self._start = time.monotonic()
        self._written = [self._start] * len(folders)

    def count(self, run: int, step: Step, peak_memory: int) -> bool:
        """Count a step that a worker has just taken; return whether the worker has to stop."""
        progress = self._runs[run]
        if step.number <= progress.step:
            progress.rows_reprocessed += step.rows
        progress.step, progress.steps = max(progress.step, step.number), step.of
        progress.tokens += step.tokens
        progress.peak_memory = max(progress.peak_memory, peak_memory)
        self._events.append(StepEvent(run, time.monotonic(), step))
        if time.monotonic() - self._written[run] > WRITE_SECONDS:
            self._write(run)
        return progress.stopped

    def end(self, run: int, failure: str | None = None) -> None:
        """Record the end of a run, or why it diverged, and write what a later call has to know."""
        progress = self._runs[run]
        if progress.ended is None:
            progress.ended, progress.failure = time.monotonic() - self._start, failure
        self._write(run)

    def stop(self, runs: Collection[int]) -> None:
        """Make the workers of these runs stop."""
        for run in runs:
            self._runs[run].stopped = True

    def state(self, run: int) -> tuple[bool, bool]:
        """Return whether a run has ended in this call or diverged, and whether its workers have to stop."""
        return self._runs[run].ended is not None, self._runs[run].stopped

    def take(self, runs: Collection[int]) -> Snapshot:
        """Return the state of every run, and the steps of some of them since the last call for these."""
        events = [event for event in self._events if event.run in runs]
        self._events = [event for event in self._events if event.run not in runs]
        return Snapshot(self._runs, events)

    def _write(self, run: int) -> None:
        progress = self._runs[run]
        self._folders[run].write_json(PROGRESS, {"step": progress.step, "rows_reprocessed": progress.rows_reprocessed})
        self._written[run] = time.monotonic()


def progress_actor(folders: list[Folder]) -> Any:
    """Start a `ProgressActor` on the driver's machine, which lives as long as the driver does."""
    return ray.remote(num_cpus=0)(ProgressActor).options(scheduling_strategy=on_this_node()).remote(folders)


def _read_progress(folder: Folder) -> RunProgress:
    """Read what earlier calls counted of a run."""
    if not folder.exists(PROGRESS):
        return RunProgress()
    content = folder.read_json(PROGRESS)
    return RunProgress(step=content["step"], rows_reprocessed=content["rows_reprocessed"])


class TrainingLogger:
    """Logs steps in the order in which they were taken."""

    def __init__(self, meter: Meter, run: Tracked) -> None:
        self._meter, self._run = meter, run
        self._last: float | None = None

    def log_step(self, moment: float, step: Step) -> None:
        """Log a step that was taken at this time, seconds."""
        self._meter.show_step(step)
        values = {"loss": step.loss, "learning_rate": step.learning_rate}
        if self._last is not None and moment > self._last:
            values["tokens_per_second"] = step.tokens / (moment - self._last)
        self._run.log(values, step.number)
        self._last = moment

    def log_epochs(self, checkpoints: Folder, names: Sequence[str]) -> None:
        """Log the mean loss of each epoch, from the metrics of its checkpoint."""
        for name in names:
            metrics = (checkpoints / name).read_json(METRICS)
            self._run.log({"epoch": metrics["epoch"], "epoch_loss": metrics["loss"]}, metrics["step"])


class StepCheckpointer:
    """Keeps the latest checkpoint inside an epoch; the checkpoints at the ends of epochs are kept elsewhere."""

    def __init__(self, stage: Folder, minutes: float = 0.0) -> None:
        """Manage the checkpoints of a stage; `minutes` is the time between two of them."""
        self._folder, self._seconds = stage / STEP_CHECKPOINTS, 60 * minutes
        self._last = time.monotonic()

    def due(self) -> bool:
        """Return whether the time between two checkpoints has passed since the last one, or since the start."""
        return time.monotonic() - self._last >= self._seconds

    def save(self, checkpoint: Path, step: int) -> None:
        """Replace the checkpoint by a newer one; `latest.json` is written last and makes it valid."""
        name = f"step-{step}"
        for file in sorted(path for path in checkpoint.iterdir() if path.is_file()):
            (self._folder / name).put(file.name, file)
        self._folder.write_json(LATEST, {"step": step})
        for other in self._folder.names():
            if other not in (LATEST, WORKERS, name):
                (self._folder / other).remove()
        self._last = time.monotonic()

    def at(self, step: int) -> Folder:
        """Return the folder of the checkpoint of a step."""
        return self._folder / f"step-{step}"

    def latest(self, epoch: int, step: int) -> int | None:
        """Return the step of the checkpoint, if it is of the epoch that follows `epoch`, which ended at `step`.

        A checkpoint of a later epoch would continue an epoch whose checkpoint is missing, and the end of an earlier
        epoch has its own checkpoint.
        """
        if not self._folder.exists(LATEST):
            return None
        latest: int = self._folder.read_json(LATEST)["step"]
        if latest <= step or self.at(latest).read_json(STATE)["epoch"] != epoch:
            return None
        return latest

    def workers_before(self, workers: int) -> int | None:
        """Note how many workers take the next steps; return how many took those before, None where it is not known."""
        before: int | None = None
        if self._folder.exists(WORKERS):
            before = self._folder.read_json(WORKERS)["workers"]
        if before != workers:
            self._folder.write_json(WORKERS, {"workers": workers})
        return before

    def remove(self) -> None:
        """Delete what a finished run no longer needs."""
        self._folder.remove()
