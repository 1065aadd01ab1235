"""The capacity of an autoscaling cluster, which by itself starts machines only for work that waits.

Ray has one list of requested resources a cluster. From the first stage of Ray Data on, an actor of Ray Data's, its
coordinator, writes that list again and again, the sum of what all have asked it for; what is requested beside it is
gone within seconds. So a study asks the coordinator, under a name of its own, and several studies do not meet.
"""

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray import _raylet
from ray.data._internal.cluster_autoscaler import ResourceRequestPriority, get_or_create_autoscaling_coordinator
from ray.data._internal.cluster_autoscaler.default_cluster_autoscaler_v2 import DefaultClusterAutoscalerV2
from ray.exceptions import GetTimeoutError, RayError

from instsel.config.study import Resources
from instsel.console import Terminal, log
from instsel.errors import StudyError
from instsel.runtime.session import cluster_resources

POLL_SECONDS = 2.0
# A request is renewed while the study lives; of one that was killed, the machines are let go after this time.
RENEW_SECONDS, EXPIRE_SECONDS = 10.0, 120.0
ANSWER_SECONDS = 30.0
# The coordinator also parts the cluster among those who ask, and Ray Data works with its own part only: it would be
# left without the GPUs that are held for it. The autoscaler assumes of a resource with this prefix that every node has
# one, and the coordinator that none has: the first starts machines for such a bundle, the second reserves nothing.
_PREFIX: str = getattr(_raylet, "IMPLICIT_RESOURCE_PREFIX")  # noqa: B009
NOT_RESERVED = {f"{_PREFIX}instsel": 0.001}

Bundle = dict[str, float]


@contextmanager
def requested_capacity(resources: Resources, terminal: Terminal) -> Iterator[None]:
    """Request the GPUs and CPUs of `resources`, wait until they have come, and hold them while the block runs.

    The autoscaler replaces a machine that is lost. After `resources.wait_minutes` the study continues with what has
    come; the actor pools grow when the rest does. Ray Data, which would ask for one more machine of each kind whenever
    all are busy, asks for none meanwhile.

    Raises:
        StudyError: nothing of what was requested came.
    """
    requested = {name: count for name, count in (("GPU", resources.gpus), ("CPU", resources.cpus)) if count}
    if not requested:
        yield
        return
    bundles: list[Bundle] = []
    for name, count in requested.items():
        kind = {f"accelerator_type:{resources.accelerator}": 0.001} if resources.accelerator and name == "GPU" else {}
        bundles += [{name: 1, **kind, **NOT_RESERVED} for _ in range(count)]
    with _held(f"instsel-{uuid.uuid4().hex}", bundles), _no_request_of_ray_data():
        _wait(requested, resources.wait_minutes, terminal)
        yield


@contextmanager
def _held(requester: str, bundles: Sequence[Bundle]) -> Iterator[None]:
    """Request bundles under a name, and renew the request in a thread while the block runs."""
    send_request(requester, bundles)
    done = threading.Event()

    def renew() -> None:
        while not done.wait(RENEW_SECONDS):
            try:
                send_request(requester, bundles)
            except (RayError, RuntimeError) as error:
                # The machine of the coordinator has gone, or is slow; the next call starts another one.
                log.warning("the request for machines was not renewed: %s", error)

    thread = threading.Thread(target=renew, name="capacity", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(ANSWER_SECONDS)
        with suppress(RayError):
            cancel_request(requester)


def send_request(requester: str, bundles: Sequence[Bundle]) -> None:
    """Ask Ray Data's coordinator for bundles until `EXPIRE_SECONDS` from now, in place of the requester's last ones."""
    coordinator: Any = get_or_create_autoscaling_coordinator()
    request = coordinator.request_resources.remote(
        requester_id=requester,
        resources=list(bundles),
        expire_after_s=EXPIRE_SECONDS,
        priority=ResourceRequestPriority.LOW,
    )
    try:
        ray.get(request, timeout=ANSWER_SECONDS)
    except GetTimeoutError:
        log.warning("the request for machines has had no answer for %.0f s", ANSWER_SECONDS)


def cancel_request(requester: str) -> None:
    """Withdraw what a requester asked for; what others asked for stays."""
    coordinator: Any = get_or_create_autoscaling_coordinator()
    ray.get(coordinator.cancel_request.remote(requester), timeout=ANSWER_SECONDS)


@contextmanager
def _no_request_of_ray_data() -> Iterator[None]:
    """Make Ray Data's executors in this process work with the machines that there are while the block runs."""
    scaler: Any = DefaultClusterAutoscalerV2
    original = scaler.try_trigger_scaling

    def only_renew(self: Any) -> None:
        if self._get_time() - self._last_request_time >= self._min_gap_between_autoscaling_requests_s:
            self._send_resource_request([])

    scaler.try_trigger_scaling = only_renew
    try:
        yield
    finally:
        scaler.try_trigger_scaling = original


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
