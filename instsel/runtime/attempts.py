"""A limit on attempts at each piece of work, counted in a process beside those who work.

Without Ray Data: that process starts for every stage, and would take most of its time to import it.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from typing_extensions import Self

from instsel.errors import StudyError
from instsel.io.store import Folder
from instsel.study.folder import Attempts, count_attempt, read_attempts

# A worker that works on a long item says so this often.
SIGN_SECONDS = 15.0
# Ray restarts a worker that died, and its work with it, without end.
MOST_ATTEMPTS = 4


class AttemptLimiter:
    """Counts attempts for the actors of a stage, which call `start` before each piece of work.

    It counts in a process, which ends with the block that a limiter opens: those who work hold it too, and Ray would
    keep it as long as one of their processes idles.
    """

    def __init__(self) -> None:
        from instsel.runtime.session import on_this_node

        # On the driver's machine: any other machine could go away, and the actor with it.
        counter: Any = ray.remote(num_cpus=0)(_AttemptCounter).options(scheduling_strategy=on_this_node())
        self._counter, self._limit = counter.remote(), MOST_ATTEMPTS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        ray.kill(self._counter)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Say every `SIGN_SECONDS`, while the block runs, that this process works."""
        done = threading.Event()

        def sign() -> None:
            while not done.wait(SIGN_SECONDS):
                self._counter.sign.remote()

        threading.Thread(target=sign, daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def last_sign(self) -> float:
        """Return the seconds since a process last started a piece of work, or said that it works."""
        seconds: float = ray.get(self._counter.last_sign.remote(), timeout=SIGN_SECONDS)
        return seconds

    def start(self, stage: Folder, piece: str, rows: int, description: str) -> None:
        """Count an attempt, also in the folder of the stage, see `instsel.study.folder`.

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
        self.signed = time.monotonic()

    def sign(self) -> None:
        self.signed = time.monotonic()

    def last_sign(self) -> float:
        return time.monotonic() - self.signed

    def count(self, stage: Folder, piece: str, rows: int) -> int:
        self.sign()
        if stage.path not in self.attempts:
            self.attempts[stage.path] = read_attempts(stage)
        count_attempt(stage, piece, rows, self.attempts[stage.path])
        self.counts[stage.path, piece] += 1
        return self.counts[stage.path, piece]
