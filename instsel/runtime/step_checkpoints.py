"""Checkpoints inside an epoch, in the stage's folder: of a run that was stopped, at most some minutes are lost."""

import time
from pathlib import Path

from instsel.io.store import Folder
from instsel.training.checkpoint import STATE

PAUSES = "pauses"
LATEST = "latest.json"


class StepCheckpointer:
    """Keeps the latest checkpoint inside an epoch; those at the ends of epochs all stay, beside it."""

    def __init__(self, stage: Folder, minutes: float = 0.0) -> None:
        """Look after the checkpoints of a stage; `minutes` is the time between two of them."""
        self._folder, self._seconds = stage / PAUSES, 60 * minutes
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether the last checkpoint, or the start, was so long ago."""
        return time.monotonic() - self._last >= self._seconds

    def save(self, checkpoint: Path, step: int) -> None:
        """Keep a checkpoint in place of the one before it; `latest.json` is written last and makes it count."""
        name = f"step-{step}"
        for file in sorted(path for path in checkpoint.iterdir() if path.is_file()):
            (self._folder / name).put(file.name, file)
        self._folder.write_json(LATEST, {"step": step})
        for other in self._folder.names():
            if other not in (LATEST, name):
                (self._folder / other).remove()
        self._last = time.monotonic()

    def at(self, step: int) -> Folder:
        """The folder of the checkpoint of this step."""
        return self._folder / f"step-{step}"

    def latest(self, epoch: int, step: int) -> int | None:
        """The step of the kept checkpoint, if it is of the epoch that follows `epoch`, which ended at `step`.

        One of a later epoch would go on from an epoch whose own checkpoint is not there, and one of an earlier epoch
        has been overtaken.
        """
        if not self._folder.exists(LATEST):
            return None
        there: int = self._folder.read_json(LATEST)["step"]
        if there <= step or self.at(there).read_json(STATE)["epoch"] != epoch:
            return None
        return there

    def remove(self) -> None:
        """Delete what a finished run no longer needs."""
        self._folder.remove()
