"""How far a training run is: its workers write it down, the driver shows it, and a restart counts from it."""

import time
from typing import Any

import ray

from instsel.stages.session import here
from instsel.storage import Folder
from instsel.training.figures import Step

PROGRESS = "progress.json"
WRITE_SECONDS = 1.0


class Board:
    """Counts the steps of a run over all its starts, and what the present call of it took.

    Attributes:
        step: furthest step of the run so far, by whichever start of it.
        steps: steps of the whole run; None before the first one of this call.
        rows_again: rows of steps that were taken before, and again after a worker or the driver was lost. What the
            last second before a lost driver did is not counted.
        tokens: through the model in this call.
        peak_memory: highest memory of the first worker, bytes.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        before = folder.read_json(PROGRESS) if folder.exists(PROGRESS) else {"step": 0, "rows_again": 0}
        self.step, self.rows_again = before["step"], before["rows_again"]
        self.steps: int | None = None
        self.tokens = self.peak_memory = 0
        self._news: list[tuple[float, Step]] = []
        self._written = time.monotonic()

    def count(self, step: Step, peak_memory: int) -> None:
        """Count a step that a worker has just taken."""
        if step.number <= self.step:
            self.rows_again += step.rows
        self.step, self.steps = max(self.step, step.number), step.of
        self.tokens += step.tokens
        self.peak_memory = max(self.peak_memory, peak_memory)
        self._news.append((time.monotonic(), step))
        if time.monotonic() - self._written > WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Keep what a later call of the run has to know."""
        self._folder.write_json(PROGRESS, {"step": self.step, "rows_again": self.rows_again})
        self._written = time.monotonic()

    def news(self) -> list[tuple[float, Step]]:
        """The steps since this was last asked for, each with the time when it was told, seconds."""
        taken, self._news = self._news, []
        return taken

    def read(self) -> dict[str, Any]:
        """The attributes."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


def board_of(folder: Folder) -> Any:
    """A board as an actor beside the driver, so that it is there as long as the driver, whichever worker goes away."""
    return ray.remote(num_cpus=0)(Board).options(scheduling_strategy=here()).remote(folder)
