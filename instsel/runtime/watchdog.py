"""Work that does not move: it is said what it waits for, and after `resources.stall_minutes` an error ends it."""

import time
from collections.abc import Callable
from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback

from instsel.console import Terminal, log
from instsel.errors import StudyError
from instsel.runtime.attempts import SIGN_SECONDS
from instsel.runtime.session import cluster_nodes, free_resources
from instsel.study.resources import ResourcePlan

# After this time without progress the study says what it waits for.
SAY_SECONDS = 60.0


class Watchdog:
    """Counts the time since the last progress, and the GPU hours."""

    def __init__(self, waits_for: str, resources: ResourcePlan, last_sign: Callable[[], float] | None = None) -> None:
        """Start to count.

        Args:
            waits_for: what has to start or to go on, for the messages.
            resources: with the limits.
            last_sign: returns the seconds since a worker last said that it works, asked where nothing else moves.
        """
        self._waits_for, self._resources, self._last_sign = waits_for, resources, last_sign
        self._said = False
        self._moved = self._asked = time.monotonic()

    def moved(self) -> None:
        """Record progress."""
        if self._said:
            Terminal().say(f"{self._waits_for}: it goes on, after {self._minutes():.0f} minutes")
        self._moved, self._said = time.monotonic(), False

    def look(self) -> None:
        """Compare the time with the limits.

        Raises:
            StudyError: there was no progress for `resources.stall_minutes`, or `resources.max_gpu_hours` are spent.
        """
        self._check_gpu_hours()
        now = time.monotonic()
        if now - self._moved < SAY_SECONDS or now - self._asked < SAY_SECONDS / 10:
            return
        self._asked = now
        if self._last_sign is not None and self._last_sign() < max(SAY_SECONDS, 2 * SIGN_SECONDS):
            self.moved()
            return
        if self._minutes() >= self._resources.stall_minutes:
            raise StudyError(
                f"no progress for {self._minutes():.3g} minutes: waited for {self._waits_for}; {free_text()}. What is "
                "done is kept: run the same command when there is room, or ask for less by the keys below resources; "
                "raise resources.stall_minutes where so long a time is usual"
            )
        if not self._said:
            self._said = True
            Terminal().say(
                f"no progress for {self._minutes():.1f} minutes: waiting for {self._waits_for}; {free_text()}"
            )

    def _minutes(self) -> float:
        return (time.monotonic() - self._moved) / 60

    def _check_gpu_hours(self) -> None:
        resources = self._resources
        if resources.ends_at is not None and time.time() > resources.ends_at:
            raise StudyError(
                f"resources.max_gpu_hours are spent: {resources.gpus_held:g} GPUs since the start of this command. "
                "What is done is kept, and the same command continues, with as many hours again"
            )


def free_text() -> str:
    """Describe what the cluster has, and what of it nobody holds."""
    free = free_resources()
    total: dict[str, float] = {}
    alive = [node["Resources"] for node in cluster_nodes() if node["Alive"]]
    for node in alive:
        for name in ("CPU", "GPU"):
            total[name] = total.get(name, 0.0) + node.get(name, 0.0)
    parts = [f"{free.get(name, 0.0):g} of {total.get(name, 0.0):g} {name}s" for name in ("CPU", "GPU")]
    return f"free on {len(alive)} machines: {', '.join(parts)}"


class DataWatch(ExecutionCallback):
    """Looks at a `Watchdog` in the loop of Ray Data, where an error ends the execution and is raised for its reader."""

    def __init__(self, waits_for: str, resources: ResourcePlan, last_sign: Callable[[], float] | None = None) -> None:
        self._arguments = waits_for, resources, last_sign
        self._watchdog: Watchdog | None = None
        self._finished = -1

    def on_execution_step(self, executor: Any) -> None:
        """Compare the number of tasks that have finished with that of the last step."""
        if self._watchdog is None:
            self._watchdog = Watchdog(*self._arguments)
        finished = sum(operator.metrics.num_tasks_finished for operator in executor._topology)
        if finished != self._finished:
            self._finished = finished
            self._watchdog.moved()
        try:
            self._watchdog.look()
        except StudyError:
            raise
        except Exception as error:
            # What only watches must not end the work.
            log.warning("the watchdog could not look: %s", error)
