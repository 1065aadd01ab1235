"""How often each piece of work is begun: one at which every worker dies ends the run, instead of starting for ever."""

from collections import Counter
from typing import Any

import ray

from instsel.errors import StudyError
from instsel.io.store import Folder
from instsel.runtime.session import here
from instsel.study.attempts import Attempts, count_attempt, read_attempts

# Ray starts a worker that died anew, and its work with it, without end.
MOST_ATTEMPTS = 4


class AttemptLimiter:
    """Handed to the actors of a stage, which tell it of every piece of work before they begin it."""

    def __init__(self) -> None:
        # Beside the driver: on another machine it could go away with that one.
        counting: Any = ray.remote(num_cpus=0)(_Counting).options(scheduling_strategy=here())
        self._counting, self._most = counting.remote(), MOST_ATTEMPTS

    def start(self, stage: Folder, piece: str, rows: int, what: str) -> None:
        """Count a piece of work and leave a mark of it, see `instsel.study.folder`.

        Args:
            stage: folder of the stage that the work is for.
            piece: name of the work, unlike all others of the stage.
            rows: that it is of.
            what: it is, in the words of an error.

        Raises:
            StudyError: it was begun `MOST_ATTEMPTS` times in this run already: whoever works on it dies.
        """
        if ray.get(self._counting.count.remote(stage, piece, rows)) > self._most:
            raise StudyError(
                f"{what}: {self._most} workers died at these rows, one after the other; if memory is short, lower "
                "token_budget or resources.actors, and run again"
            )


class _Counting:
    """Counts for all actors, in a process of its own."""

    def __init__(self) -> None:
        self.marks: dict[str, dict[str, Attempts]] = {}
        self.counts: Counter[tuple[str, str]] = Counter()

    def count(self, stage: Folder, piece: str, rows: int) -> int:
        if stage.path not in self.marks:
            self.marks[stage.path] = read_attempts(stage)
        count_attempt(stage, piece, rows, self.marks[stage.path])
        self.counts[stage.path, piece] += 1
        return self.counts[stage.path, piece]
