"""What all trials of Ray Tune need: resources for each, a quiet terminal, a progress bar."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import tune

from instsel.console import Bar, Terminal, log
from instsel.runtime.session import default_variables, free_nodes
from instsel.study.resources import ResourcePlan, divide_among_trials

# Of the process that drives a trial, whose workers ask for their own. Ray Tune rejects an empty request, and a part of
# a CPU would keep tasks that take a whole one from a cluster that has only one.
DRIVER = {"CPU": 0.0, "memory": 1.0}
# Ray Tune writes logs of its own, and at Ctrl-C would return as if the search had ended.
QUIET = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1"}


def plan_trial_resources(resources: ResourcePlan, workers: int | None) -> tuple[ResourcePlan, int]:
    """Divide a cluster among runs side by side: the resources of each, and how many run at once.

    Args:
        resources: of a run that has the whole cluster.
        workers: training workers of a run; default 1, since runs side by side do not wait for each other.

    Raises:
        StudyError: a run would have more workers than the cluster has room for.
    """
    return divide_among_trials(resources, resources.nodes or free_nodes(resources.accelerator), workers)


class TrialCounter(tune.Callback):
    """Advances the progress bar by each trial that ends."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar

    def __getstate__(self) -> dict[str, object]:
        # Ray Tune pickles its callbacks to restore them; nothing here is restored.
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.bar.advance(1)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        log.warning("%s failed", trial)


@contextmanager
def quiet_tune(terminal: Terminal) -> Iterator[None]:
    """Keep Ray Tune's tables and notices from the terminal; what the user set in the environment stays."""
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with default_variables(QUIET), terminal.alone():
            yield
    finally:
        logger.setLevel(level)
