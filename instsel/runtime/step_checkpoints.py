"""Checkpoints inside an epoch, in the stage's folder, so that a run that is stopped loses at most some minutes."""

import time
from pathlib import Path

from instsel.io.store import Folder
from instsel.training.checkpoint import STATE

STEP_CHECKPOINTS = "step-checkpoints"
LATEST = "latest.json"


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
            if other not in (LATEST, name):
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

    def remove(self) -> None:
        """Delete what a finished run no longer needs."""
        self._folder.remove()
