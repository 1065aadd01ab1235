"""A Ray session for one command: joined or started here, quiet, and what its machines can hold."""

import logging
import math
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private import ray_logging
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from instsel.config.study import Resources
from instsel.console import log
from instsel.errors import InputError, StudyError
from instsel.study.resources import ResourcePlan

# A process takes 5 s of a CPU to start and to load torch and transformers, in which a small model takes the gradients
# of some 1,000 tokens, and its start slows down the others.
TOKENS_A_PROCESS = 4096
WORKERS_LIMIT = "RAY_num_workers_soft_limit"
# Those of Ray Data and Ray Train themselves, and ours, that a stage has beside its model actors.
ACTORS_AT_ONCE = 10


def useful_processes(most: int, tokens: float) -> int:
    """How many of at most so many processes are worth their start for so many tokens; at least one."""
    return most if tokens >= most * TOKENS_A_PROCESS else max(1, int(tokens // TOKENS_A_PROCESS))


@contextmanager
def ray_session(resources: Resources) -> Iterator[None]:
    """Join the cluster at `resources.ray_address` or that of the environment, else start one on this machine."""
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        with _idle_workers_stay():
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


@contextmanager
def _idle_workers_stay() -> Iterator[None]:
    """Let a Ray that is started in the block keep some processes between two tasks; what the user set stays.

    By default Ray ends an idle process after a second while there are more processes than CPUs, and a study has more
    than that for its actors alone: the next task would wait for a new process, and import everything again.
    """
    if WORKERS_LIMIT in os.environ:
        yield
        return
    os.environ[WORKERS_LIMIT] = str(ACTORS_AT_ONCE + (os.cpu_count() or 1))
    try:
        yield
    finally:
        del os.environ[WORKERS_LIMIT]


def here() -> NodeAffinitySchedulingStrategy:
    """Placement on this process' own machine, for actors that have to live as long as it does.

    An actor without CPUs may else be put on any machine, and die with it.
    """
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def raylet_lines_to_log() -> None:
    """Send the warnings of Ray's own processes to the log file, not the terminal; Ray has no public switch for them."""
    lines = getattr(ray_logging, "global_worker_stdstream_dispatcher", None)
    if lines is None:
        return
    lines.remove_handler("ray_print_logs")
    lines.add_handler("instsel", lambda data: log.debug("ray: %s", " ".join(data["lines"])))


def quiet_data() -> None:
    """Keep Ray Data's own bars and notices from the terminal, and hand on a worker's error as it was.

    The study has bars of its own and tells errors itself; Ray Data's wrapping would lose which error it was.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def plan_resources(resources: Resources) -> ResourcePlan:
    """Share the cluster's GPUs, or its CPUs where it has none, among actors and workers.

    Raises:
        StudyError: more was asked for than the cluster has.
    """
    total = ray.cluster_resources()
    # A head that is there to look after the others has no CPUs for work.
    nodes = max(1, sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes()))
    cpus, gpus = total.get("CPU", 1.0), total.get("GPU", 0.0)
    if gpus:
        share = 1.0 if resources.gpus_per_actor is None else resources.gpus_per_actor
        actors = resources.actors or max(1, math.floor(gpus / share))
        hoped = resources.actors or max(actors, math.floor((resources.gpus or 0) / share))
        workers = resources.training_workers or max(1, int(gpus))
        per_actor = max(1, int(cpus // max(actors, 1)) - 1)
        if share * actors > gpus or workers > gpus:
            raise StudyError(f"resources: {actors} actors of {share} GPU and {workers} workers, but {gpus:g} GPUs")
        threads = resources.threads_per_actor or per_actor
        worker_threads = max(1, int(cpus // workers) - 1)
        return ResourcePlan(actors, share, 1, threads, workers, 1, 1, worker_threads, hoped - actors)
    if resources.gpus_per_actor:
        raise StudyError(f"resources.gpus_per_actor is {resources.gpus_per_actor}, but the cluster has no GPU")
    # Small models run faster as two processes than as one with twice the threads, which wait for each other at
    # every operation; more than two would multiply the memory of large ones.
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
    """Largest resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine_memory() -> int:
    """Memory of this machine, or of the container that this process runs in, bytes."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for place in map(Path, CGROUP_LIMITS):
        text = place.read_text(encoding="utf-8").strip() if place.is_file() else ""
        if text.isdecimal():
            found.append(int(text))
    return min(found)
