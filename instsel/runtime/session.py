"""The Ray session of a command: joined or started, quiet on the terminal, and how its resources are divided."""

import logging
import math
import os
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_logging
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from instsel.config.study import Resources
from instsel.console import log
from instsel.errors import InputError, StudyError
from instsel.study.resources import ResourcePlan as ResourcePlan

# A process takes 5 s of a CPU to start and to load torch and transformers; in that time a small model takes the
# gradients of some 1,000 tokens. Its start also slows down the other processes.
TOKENS_PER_PROCESS = 4096
# By default Ray ends an idle process after a second while there are more processes than CPUs, and a study has more than
# that for its actors alone: the next task would wait for a new process, and import everything again.
WORKERS_LIMIT = "RAY_num_workers_soft_limit"
# Actors that a stage has beside its model actors: those of Ray Data and Ray Train themselves, and those that count.
HELPER_ACTORS = 10


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
    raylet_lines_to_log()
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


def raylet_lines_to_log() -> None:
    """Send the warnings of Ray's own processes to the log file, not the terminal; Ray has no public switch for them."""
    lines = getattr(ray_logging, "global_worker_stdstream_dispatcher", None)
    if lines is None:
        return
    lines.remove_handler("ray_print_logs")
    lines.add_handler("instsel", lambda data: log.debug("ray: %s", " ".join(data["lines"])))


def quiet_data() -> None:
    """Keep Ray Data's progress bars and notices from the terminal, and raise a worker's error unchanged.

    The study has its own progress bars and reports errors itself; Ray Data's wrapping would hide the error's type.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def plan_resources(resources: Resources) -> ResourcePlan:
    """Divide the cluster's GPUs, or its CPUs where it has none, among actors and workers.

    Raises:
        StudyError: more was asked for than the cluster has.
    """
    total = cluster_resources()
    # A head node that only manages the others has no CPUs for work.
    nodes = max(1, sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in cluster_nodes()))
    cpus, gpus = total.get("CPU", 1.0), total.get("GPU", 0.0)
    if gpus:
        per_actor = 1.0 if resources.gpus_per_actor is None else resources.gpus_per_actor
        actors = resources.actors or max(1, math.floor(gpus / per_actor))
        eventual_actors = resources.actors or max(actors, math.floor((resources.gpus or 0) / per_actor))
        workers = resources.training_workers or max(1, int(gpus))
        if per_actor * actors > gpus or workers > gpus:
            raise StudyError(f"resources: {actors} actors of {per_actor} GPU and {workers} workers, but {gpus:g} GPUs")
        threads = resources.threads_per_actor or max(1, int(cpus // max(actors, 1)) - 1)
        worker_threads = max(1, int(cpus // workers) - 1)
        return ResourcePlan(actors, per_actor, 1, threads, workers, 1, 1, worker_threads, eventual_actors - actors)
    if resources.gpus_per_actor:
        raise StudyError(f"resources.gpus_per_actor is {resources.gpus_per_actor}, but the cluster has no GPU")
    # Small models run faster in two processes than in a single process with twice the threads, which wait for each
    # other at every operation; more than two processes would multiply the memory of large models.
    pairs = nodes * min(2, max(1, int(cpus // nodes)))
    actors = resources.actors or pairs
    workers = resources.training_workers or pairs
    threads = resources.threads_per_actor or max(1, int(cpus // actors))
    # Half of the CPUs stay free for the tasks that feed the actors; the threads use them all the same.
    cpus_each = min(1.0, cpus / (2 * actors))
    worker_cpus = min(1.0, cpus / (2 * workers))
    return ResourcePlan(actors, 0, cpus_each, threads, workers, 0, worker_cpus, max(1, int(cpus // workers)))


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
