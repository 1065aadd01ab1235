"""Checkpoints inside an epoch, in the stage's folder: of a run that was stopped, at most some minutes are lost."""

import time
from pathlib import Path

from instsel.storage import Folder
from instsel.training.checkpoint import STATE

PAUSES = "pauses"
LATEST = "latest.json"


class PauseFolder:
    """Holds the latest checkpoint inside an epoch. Ray Train knows only those at the ends of epochs, which all stay."""

    def __init__(self, stage: Folder, minutes: float) -> None:
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

    def after(self, epoch: int, step: int) -> Folder | None:
        """The kept checkpoint, if it is of the epoch that follows `epoch`, which ended at `step`.

        One of a later epoch would go on from an epoch whose own checkpoint Ray Train does not know, and one of an
        earlier epoch has been overtaken.
        """
        if not self._folder.exists(LATEST):
            return None
        there = self._folder.read_json(LATEST)["step"]
        place = self._folder / f"step-{there}"
        if there <= step or place.read_json(STATE)["epoch"] != epoch:
            return None
        return place

    def remove(self) -> None:
        """Delete what the finished run no longer needs."""
        self._folder.remove()
