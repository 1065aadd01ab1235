"""What the trials of Ray Tune share: room on the cluster, quiet, a bar."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import tune

from instsel.config.search import Search
from instsel.console import Bar, Terminal, log
from instsel.errors import StudyError
from instsel.io.fingerprint import fingerprint
from instsel.io.store import Folder
from instsel.runtime.session import Allotment
from instsel.search.outcome import Outcome, objective_of
from instsel.search.trial import OUTCOME, split_losses

# Of the process that looks after a run; what works in it asks for its own. Ray Tune takes no request for nothing.
DRIVER = {"CPU": 0.01}
# Ray Tune writes logs of its own, and would end a run at Ctrl-C as if it had come to its end.
QUIET = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1"}


def trial_allotment(allot: Allotment, workers: int | None) -> tuple[Allotment, int]:
    """What one of many runs gets, and how many run at once.

    Args:
        allot: of a run that has the cluster to itself.
        workers: training workers of a run; default one, since runs side by side do not wait for each other.

    Raises:
        StudyError: a run would have more workers than the cluster has room for.
    """
    each = workers or 1
    total = ray.cluster_resources()
    room = total.get("GPU", 0.0) / allot.worker_gpus if allot.worker_gpus else total.get("CPU", 1.0) / allot.worker_cpus
    # Without GPUs the CPUs that are left free feed the workers, see `allot`.
    at_once = int(room // each) if allot.worker_gpus else int(room // (2 * each))
    if each > room:
        raise StudyError(f"resources.trial_workers is {each}, but the cluster has room for {int(room)} workers")
    at_once = max(1, at_once)
    return replace(allot, workers=each, actors=max(1, allot.actors // at_once), actors_to_come=0), at_once


class Counting(tune.Callback):
    """Moves the bar, a trial at a time."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune writes its callbacks down, to restore them; nothing here is restored.
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.bar.advance(1)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        log.warning("%s failed", trial)


@contextmanager
def quiet_tune(terminal: Terminal) -> Iterator[None]:
    """Keep Ray Tune's tables and notices from the terminal; what the user set in the environment stays."""
    ours = {name: value for name, value in QUIET.items() if name not in os.environ}
    os.environ.update(ours)
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with terminal.alone():
            yield
    finally:
        logger.setLevel(level)
        for name in ours:
            del os.environ[name]


def last_line(error: BaseException) -> str:
    """The last line of an error of Ray Tune, which puts the reason there."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@dataclass(frozen=True)
class Points:
    """The points of one search.

    Attributes:
        folder: where their files are.
        trials: folder of the trials, which searches share.
        search: the key `search`.
    """

    folder: Folder
    trials: Folder
    search: Search

    def asked(self, point: Mapping[str, Any]) -> dict[str, Any] | None:
        """What is known of a point; None if it was never asked for."""
        name = f"{_name(point)}.json"
        found: dict[str, Any] | None = self.folder.read_json(name) if self.folder.exists(name) else None
        return found

    def note(self, point: Mapping[str, Any], trial: str | None, told: Mapping[str, Any] | None) -> None:
        """Write down that a point was asked for, by which trial, and what that told last."""
        self.folder.write_json(f"{_name(point)}.json", {"point": dict(point), "trial": trial, "told": told})

    def end(self, point: Mapping[str, Any], *, failed: str | None) -> None:
        """Mark a point whose trial ended before it told its last: as failed, or as stopped early."""
        kept = self.asked(point) or {"trial": None, "told": None}
        told = kept["told"] or {}
        if told.get("last"):
            return
        if failed is not None or not told:
            told = {"failed": failed or "stopped before its first epoch ended"}
        self.note(point, kept["trial"], {**told, "last": True, "stopped": "objective" in told})

    def outcomes(self) -> list[tuple[dict[str, Any], Outcome | None]]:
        """Every point that was asked for, and what came out; None for one that was under way."""
        kept = [self.folder.read_json(name) for name in self.folder.names()]
        return [(one["point"], self.outcome(one)) for one in kept]

    def outcome(self, kept: Mapping[str, Any]) -> Outcome | None:
        """What came out of a point, by its file."""
        point, told, trial = kept["point"], kept["told"], kept["trial"]
        if trial is not None and (self.trials / trial).exists(OUTCOME):
            done = (self.trials / trial).read_json(OUTCOME)
            folder = self.trials / trial / done["evaluated"]
            searched, judged = split_losses(folder, done["targets"], self.search.share)
            objective = objective_of(searched, done["tokens"], self.search.objective)
            return Outcome(trial, point, objective, done["tokens"], searched, judged)
        if told is None or not told["last"]:
            return None
        name = trial or _name(point)
        if told["stopped"]:
            return Outcome(name, point, told["objective"], told["tokens"], {}, {}, stopped=True)
        return Outcome(name, point, float("inf"), 0, {}, {}, failed=told["failed"])


def _name(point: Mapping[str, Any]) -> str:
    return fingerprint(dict(point))
