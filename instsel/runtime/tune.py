"""What the trials of Ray Tune share: room on the cluster, quiet, a bar."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray import tune

from instsel.console import Bar, Terminal, log
from instsel.errors import StudyError
from instsel.study.resources import ResourcePlan

# Of the process that looks after a run; what works in it asks for its own. Ray Tune takes no request for nothing.
DRIVER = {"CPU": 0.01}
# Ray Tune writes logs of its own, and would end a run at Ctrl-C as if it had come to its end.
QUIET = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1"}


def plan_trial_resources(resources: ResourcePlan, workers: int | None) -> tuple[ResourcePlan, int]:
    """What one of many runs gets, and how many run at once.

    Args:
        resources: of a run that has the cluster to itself.
        workers: training workers of a run; default one, since runs side by side do not wait for each other.

    Raises:
        StudyError: a run would have more workers than the cluster has room for.
    """
    each = workers or 1
    total = ray.cluster_resources()
    room = (
        total.get("GPU", 0.0) / resources.worker_gpus
        if resources.worker_gpus
        else total.get("CPU", 1.0) / resources.worker_cpus
    )
    # Without GPUs the CPUs that are left free feed the workers, see `resources`.
    at_once = int(room // each) if resources.worker_gpus else int(room // (2 * each))
    if each > room:
        raise StudyError(f"resources.trial_workers is {each}, but the cluster has room for {int(room)} workers")
    at_once = max(1, at_once)
    return replace(resources, workers=each, actors=max(1, resources.actors // at_once), actors_to_come=0), at_once


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
