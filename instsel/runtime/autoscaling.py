"""The capacity of an autoscaling cluster, which by itself starts machines only for work that waits."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ray.autoscaler.sdk import request_resources

from instsel.config.study import Resources
from instsel.console import Terminal, log
from instsel.errors import StudyError
from instsel.runtime.session import cluster_resources

POLL_SECONDS = 2.0


@contextmanager
def requested_capacity(resources: Resources, terminal: Terminal) -> Iterator[None]:
    """Request the GPUs and CPUs of `resources`, wait until they have come, and hold them while the block runs.

    The autoscaler replaces a machine that is lost. After `resources.wait_minutes` the study continues with what has
    come; the actor pools grow when the rest does.

    Raises:
        StudyError: nothing of what was requested came.
    """
    requested = {name: count for name, count in (("GPU", resources.gpus), ("CPU", resources.cpus)) if count}
    if not requested:
        yield
        return
    request_resources(bundles=[{name: 1} for name, count in requested.items() for _ in range(count)])
    try:
        _wait(requested, resources.wait_minutes, terminal)
        yield
    finally:
        request_resources(bundles=[])


def _wait(requested: dict[str, int], minutes: float, terminal: Terminal) -> None:
    deadline = time.monotonic() + 60 * minutes
    last_text = ""
    while True:
        total = cluster_resources()
        available = {name: int(total.get(name, 0)) for name in requested}
        text = ", ".join(f"{available[name]} of {count} {name}s" for name, count in requested.items())
        if all(available[name] >= count for name, count in requested.items()):
            log.info("the cluster has %s", text)
            return
        if time.monotonic() >= deadline:
            break
        if text != last_text:
            terminal.say(f"waiting for machines: {text}")
            last_text = text
        time.sleep(POLL_SECONDS)
    if not all(available.values()):
        raise StudyError(
            f"resources: after {minutes:g} minutes the cluster has {text}; it may not scale so far, or the cloud has "
            "none to give. Ask for fewer, raise resources.wait_minutes, or submit again later"
        )
    terminal.say(f"going on with {text}, after {minutes:g} minutes")
