"""Bringing an autoscaling cluster to a size and holding it there, since it starts machines only for work that waits."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.autoscaler.sdk import request_resources

from instsel.config.study import Resources
from instsel.console import Terminal, log
from instsel.errors import StudyError

POLL_SECONDS = 2.0


@contextmanager
def autoscaled(resources: Resources, terminal: Terminal) -> Iterator[None]:
    """Ask for the GPUs and CPUs of `resources`, wait until they are there, and hold them while the block runs.

    A machine that is lost is asked for again. After `resources.wait_minutes` the study goes on with what has come; the
    pools of actors grow when the rest does.

    Raises:
        StudyError: none of what was asked for came.
    """
    asked = {name: count for name, count in (("GPU", resources.gpus), ("CPU", resources.cpus)) if count}
    if not asked:
        yield
        return
    request_resources(bundles=[{name: 1} for name, count in asked.items() for _ in range(count)])
    try:
        _wait(asked, resources.wait_minutes, terminal)
        yield
    finally:
        request_resources(bundles=[])


def _wait(asked: dict[str, int], minutes: float, terminal: Terminal) -> None:
    deadline = time.monotonic() + 60 * minutes
    told = ""
    while True:
        total = ray.cluster_resources()
        there = {name: int(total.get(name, 0)) for name in asked}
        text = ", ".join(f"{there[name]} of {count} {name}s" for name, count in asked.items())
        if all(there[name] >= count for name, count in asked.items()):
            log.info("the cluster has %s", text)
            return
        if time.monotonic() >= deadline:
            break
        if text != told:
            terminal.say(f"waiting for machines: {text}")
            told = text
        time.sleep(POLL_SECONDS)
    if not all(there.values()):
        raise StudyError(
            f"resources: after {minutes:g} minutes the cluster has {text}; it may not scale so far, or the cloud has "
            "none to give. Ask for fewer, raise resources.wait_minutes, or submit again later"
        )
    terminal.say(f"going on with {text}, after {minutes:g} minutes")
