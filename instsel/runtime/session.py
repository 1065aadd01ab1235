"""The Ray session of a command: joined or started, quiet on the terminal, and how its resources are divided."""

import logging
import os
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray._private import state as ray_state
from ray._private import worker as ray_worker
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from instsel.config.study import Resources
from instsel.console import log
from instsel.errors import InputError, StudyError
from instsel.study.resources import ACCELERATOR_LABEL, Node, divide_cluster
from instsel.study.resources import ResourcePlan as ResourcePlan

# A process takes 5 s of a CPU to start and to load torch and transformers; in that time a small model takes the
# gradients of some 1,000 tokens. Its start also slows down the other processes.
TOKENS_PER_PROCESS = 4096
# By default Ray ends an idle process after a second while there are more processes than CPUs, and a study has more than
# that for its actors alone: the next task would wait for a new process, and import everything again.
WORKERS_LIMIT = "RAY_num_workers_soft_limit"
# Actors that a stage has beside its model actors: those of Ray Data and Ray Train themselves, and those that count.
HELPER_ACTORS = 10
# How long to wait for what processes that ended have held.
FREE_SECONDS = 3.0


def useful_processes(limit: int, tokens: float) -> int:
    """Count the processes, at most `limit`, that are worth their start for so many tokens; at least one."""
    return limit if tokens >= limit * TOKENS_PER_PROCESS else max(1, int(tokens // TOKENS_PER_PROCESS))


@contextmanager
def ray_session(resources: Resources) -> Iterator[None]:
    """Join the cluster at `resources.ray_address` or in the environment; without either, start Ray on this machine."""
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        with default_variables({WORKERS_LIMIT: str(HELPER_ACTORS + (os.cpu_count() or 1))}):
            ray.init(
                address=resources.ray_address,
                include_dashboard=False if resources.ray_address is None else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except ConnectionError as error:
        raise InputError(f"resources.ray_address: no Ray cluster answers there ({error})") from error
    quiet_data()
    with raylet_lines_to_log():
        try:
            yield
        finally:
            ray.shutdown()


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Place an actor on this process' machine, for actors that have to live as long as the process does.

    Ray may put an actor without CPUs on any other machine, and the actor dies with that machine.
    """
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def cluster_resources() -> dict[str, float]:
    """Return the totals of the cluster's resources, such as CPU and GPU."""
    api: Any = ray
    totals: dict[str, float] = api.cluster_resources()
    return totals


def cluster_nodes() -> list[dict[str, Any]]:
    """Return what Ray says of each node of the cluster."""
    api: Any = ray
    nodes: list[dict[str, Any]] = api.nodes()
    return nodes


@contextmanager
def raylet_lines_to_log() -> Iterator[None]:
    """Send the warnings of Ray's own processes to the log file while the block runs, not to standard output.

    Ray has no public switch for them: a thread of the driver prints them, whatever `log_to_driver` says.
    """

    def to_log(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        log.debug("ray: %s", " ".join(data["lines"]))

    name = "print_to_stdstream"
    printing = getattr(ray_worker, name, None)
    if printing is None:
        log.debug("this Ray has no %s: its warnings may reach the terminal", name)
        yield
        return
    setattr(ray_worker, name, to_log)
    try:
        yield
    finally:
        setattr(ray_worker, name, printing)


def quiet_data() -> None:
    """Keep Ray Data's progress bars and notices from the terminal, and raise a worker's error unchanged.

    The study has its own progress bars and reports errors itself; Ray Data's wrapping would hide the error's type.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def free_nodes(accelerator: str | None = None) -> list[Node]:
    """Return what is free on each machine now; of all of it where nothing is, since the work then has to wait.

    Args:
        accelerator: type of GPU, by Ray's names; machines without it are left out.

    Raises:
        StudyError: no machine has a GPU of this type.
    """
    nodes = [node for node in cluster_nodes() if node["Alive"]]
    if accelerator is not None:
        types = {node.get("Labels", {}).get(ACCELERATOR_LABEL) for node in nodes} - {None}
        nodes = [node for node in nodes if node.get("Labels", {}).get(ACCELERATOR_LABEL) == accelerator]
        if not nodes:
            raise StudyError(
                f"resources.accelerator is {accelerator!r}; the cluster has {', '.join(sorted(types)) or 'none'}"
            )
    totals = [Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in nodes]
    deadline = time.monotonic() + FREE_SECONDS
    while True:
        available = available_resources()
        # A node that has just joined is not among them yet.
        free = [available.get(node["NodeID"], node["Resources"]) for node in nodes]
        left = [Node(of_node.get("CPU", 0.0), of_node.get("GPU", 0.0)) for of_node in free]
        # Processes that have just ended give theirs back within a moment.
        if left == totals or time.monotonic() >= deadline:
            break
        time.sleep(0.1)
    is_full = not any(node.cpus for node in left) or (
        any(node.gpus for node in totals) and not any(node.gpus for node in left)
    )
    return totals if is_full else left


def available_resources() -> dict[str, dict[str, float]]:
    """Return the resources of each node that nobody holds, by its id; Ray has no public name for it."""
    api: Any = ray_state
    available: dict[str, dict[str, float]] = api.available_resources_per_node()
    return available


def free_resources() -> dict[str, float]:
    """Return the resources of the cluster that nobody holds."""
    free: dict[str, float] = {}
    for of_node in available_resources().values():
        for name, count in of_node.items():
            free[name] = free.get(name, 0.0) + count
    return free


def plan_resources(resources: Resources) -> ResourcePlan:
    """Divide what is free on the cluster now among actors and workers, see `divide_cluster`.

    Raises:
        StudyError: more was asked for than there is.
    """
    plan = divide_cluster(free_nodes(resources.accelerator), resources)
    if resources.max_gpu_hours is None or not plan.gpus_held:
        return plan
    return replace(plan, ends_at=time.time() + 3600 * resources.max_gpu_hours / plan.gpus_held)


CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine_memory() -> int:
    """Return the memory of this machine, or of the container that this process runs in, bytes."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in map(Path, CGROUP_LIMITS):
        text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        if text.isdecimal():
            limits.append(int(text))
    return min(limits)


@contextmanager
def default_variables(defaults: Mapping[str, str]) -> Iterator[None]:
    """Set variables while the block runs; those that the user has set keep their values."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
