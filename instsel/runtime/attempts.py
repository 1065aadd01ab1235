"""A limit on the attempts at each piece of work, so that work at which every worker dies ends the run."""

from collections import Counter
from typing import Any

import ray

from instsel.errors import StudyError
from instsel.io.store import Folder
from instsel.runtime.session import on_this_node
from instsel.study.attempts import Attempts, count_attempt, read_attempts

# Ray restarts a worker that died, and its work with it, without end.
MOST_ATTEMPTS = 4


class AttemptLimiter:
    """Counts attempts for the actors of a stage, which call `start` before each piece of work."""

    def __init__(self) -> None:
        # On the driver's machine: any other machine could go away, and the actor with it.
        counter: Any = ray.remote(num_cpus=0)(_AttemptCounter).options(scheduling_strategy=on_this_node())
        self._counter, self._limit = counter.remote(), MOST_ATTEMPTS

    def start(self, stage: Folder, piece: str, rows: int, description: str) -> None:
        """Count an attempt, also in the folder of the stage, see `instsel.study.attempts`.

        Args:
            stage: folder of the stage that the work is for.
            piece: name of the work, unlike all others of the stage.
            rows: number of rows in it.
            description: of the work, for an error's message.

        Raises:
            StudyError: this run has tried `MOST_ATTEMPTS` times already, and each time the worker died.
        """
        if ray.get(self._counter.count.remote(stage, piece, rows)) > self._limit:
            raise StudyError(
                f"{description}: {self._limit} workers died at these rows, one after the other; if memory is short, "
                "lower token_budget or resources.actors, and run again"
            )


class _AttemptCounter:
    """Counts for all actors of a stage, in a process of its own."""

    def __init__(self) -> None:
        self.attempts: dict[str, dict[str, Attempts]] = {}
        self.counts: Counter[tuple[str, str]] = Counter()

    def count(self, stage: Folder, piece: str, rows: int) -> int:
        if stage.path not in self.attempts:
            self.attempts[stage.path] = read_attempts(stage)
        count_attempt(stage, piece, rows, self.attempts[stage.path])
        self.counts[stage.path, piece] += 1
        return self.counts[stage.path, piece]
