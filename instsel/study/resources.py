"""How a study divides a cluster: CPUs and GPUs of every actor, reader, training worker and trial, node by node.

All of it is decided here, from the sizes of the nodes and the keys of the study file. Whatever runs at once takes at
most half of a node's CPUs, or of all CPUs where there is no GPU, so that the tasks that feed it always fit beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from instsel.config.study import Resources
from instsel.errors import StudyError

# Of a task that reads rows ahead of an actor.
READER_CPUS = 0.1
# Part of the CPUs that actors or workers ask for; their threads use the others all the same.
SHARE = 0.5
# An actor on a GPU asks for at least this much of a CPU; only below 1/50 CPU for each are there fewer actors than GPUs.
LEAST_CPUS = 0.01
# Ray counts in ten-thousandths.
UNITS = 10_000
ROUNDING = 1e-9
# Ray sets it on every node with a GPU that it knows.
ACCELERATOR_LABEL = "ray.io/accelerator-type"


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: the CPUs and GPUs that a study may use there."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class ResourcePlan:
    """How a stage's model actors and training workers divide a cluster.

    Attributes:
        actors: number of model actors.
        gpus, cpus: what each of them asks Ray for.
        threads: torch threads of each.
        workers: number of training workers.
        worker_gpus, worker_cpus, worker_threads: the same for those.
        actors_to_come: more actors, which start once GPUs that were asked for have come.
        accelerator: type of GPU that all of them ask for, if any.
        max_gpus: most GPUs that all of them hold together.
        nodes: machines that were divided; empty where a plan was not made from any.
        stall_minutes: time without progress after which the work is given up.
        ends_at: time of the clock, seconds, at which `resources.max_gpu_hours` are spent.
    """

    actors: int
    gpus: float
    cpus: float
    threads: int
    workers: int
    worker_gpus: float
    worker_cpus: float
    worker_threads: int
    actors_to_come: int = 0
    accelerator: str | None = None
    max_gpus: int | None = None
    nodes: tuple[Node, ...] = ()
    stall_minutes: float = 30.0
    ends_at: float | None = None

    @property
    def gpus_held(self) -> float:
        """The most GPUs that the study holds at a time."""
        return max((self.actors + self.actors_to_come) * self.gpus, self.workers * self.worker_gpus)

    @property
    def model_options(self) -> dict[str, Any]:
        """What a task asks for that runs a model as an actor does, options of `ray.remote`."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "label_selector": self.label_selector}

    @property
    def label_selector(self) -> dict[str, str] | None:
        """Labels of the nodes that actors and workers may run on, as Ray takes them."""
        return None if self.accelerator is None else {ACCELERATOR_LABEL: self.accelerator}


def divide_cluster(nodes: Sequence[Node], resources: Resources) -> ResourcePlan:
    """Divide the cluster's GPUs, or its CPUs where it has none, among actors and workers.

    Args:
        nodes: machines, with what a study may use of each.
        resources: keys of the study file.

    Raises:
        StudyError: more was asked for than the cluster has.
    """
    if any(node.gpus for node in nodes):
        return _divide_gpus(nodes, resources)
    if resources.gpus_per_actor:
        raise StudyError(f"resources.gpus_per_actor is {resources.gpus_per_actor}, but the cluster has no GPU")
    # A head node that only manages the others has no CPUs for work.
    working = tuple(node for node in nodes if node.cpus > 0) or (Node(1.0),)
    total = sum(node.cpus for node in working)
    # Small models run faster in two processes than in a single process with twice the threads, which wait for each
    # other at every operation; more than two processes would multiply the memory of large models.
    pairs = sum(min(2, max(1, int(node.cpus))) for node in working)
    actors = resources.actors or pairs
    workers = resources.training_workers or pairs
    return ResourcePlan(
        actors=actors,
        gpus=0,
        cpus=_largest_share(working, actors, "actors"),
        threads=resources.threads_per_actor or max(1, int(total // actors)),
        workers=workers,
        worker_gpus=0,
        worker_cpus=_largest_share(working, workers, "training_workers"),
        worker_threads=max(1, int(total // workers)),
        nodes=working,
        stall_minutes=resources.stall_minutes,
    )


def _divide_gpus(nodes: Sequence[Node], resources: Resources) -> ResourcePlan:
    per_actor = 1.0 if resources.gpus_per_actor is None else resources.gpus_per_actor
    # Where GPUs are, the CPUs of other machines are left to what reads.
    working = tuple(node for node in nodes if node.gpus > 0)
    total = sum(node.gpus for node in working)
    most = _room(working, per_actor, resources.max_gpus)
    most_workers = _room(working, 1.0, resources.max_gpus)
    if not most or not most_workers:
        what = f"an actor takes {per_actor:g} GPU" if not most else "a training worker takes a whole GPU"
        raise StudyError(
            f"resources: {what}, and no machine of the cluster has as much free beside a CPU, within "
            f"resources.max_gpus: {total:g} GPUs on {len(working)} machines; lower gpus_per_actor, raise max_gpus, or "
            "wait"
        )
    actors = resources.actors or most
    workers = resources.training_workers or most_workers
    if actors > most or workers > most_workers:
        limit = total if resources.max_gpus is None else min(total, resources.max_gpus)
        raise StudyError(f"resources: {actors} actors of {per_actor} GPU and {workers} workers, but {limit:g} GPUs")
    requested = min(resources.gpus or 0, resources.max_gpus or math.inf)
    eventual = resources.actors or max(actors, _room([Node(math.inf, requested)], per_actor))
    return ResourcePlan(
        actors=actors,
        gpus=per_actor,
        cpus=_share_beside_gpus(working, per_actor),
        threads=resources.threads_per_actor or _threads(working, per_actor, actors),
        workers=workers,
        worker_gpus=1,
        worker_cpus=_share_beside_gpus(working, 1.0),
        worker_threads=_threads(working, 1.0, workers),
        actors_to_come=eventual - actors,
        accelerator=resources.accelerator,
        max_gpus=resources.max_gpus,
        nodes=working,
        stall_minutes=resources.stall_minutes,
    )


def divide_among_trials(plan: ResourcePlan, nodes: Sequence[Node], workers: int | None) -> tuple[ResourcePlan, int]:
    """Divide a cluster among runs side by side: the resources of each, and how many run at once.

    Any of them may train while the others evaluate, so each counts with the larger of the two.

    Args:
        plan: of a run that has the whole cluster.
        nodes: machines of the cluster.
        workers: training workers of a run; default 1, since runs side by side do not wait for each other.

    Raises:
        StudyError: a run would have more workers than the cluster has room for.
    """
    each = workers or 1
    if plan.worker_gpus:
        room = feeding_room = _room(nodes, plan.worker_gpus, plan.max_gpus)
        actor_room = _room(nodes, plan.gpus, plan.max_gpus) if plan.gpus else room
    else:
        room = _count(nodes, plan.worker_cpus, 1.0)
        feeding_room, actor_room = _count(nodes, plan.worker_cpus, SHARE), _count(nodes, plan.cpus, SHARE)
    if each > room:
        raise StudyError(f"resources.trial_workers is {each}, but the cluster has room for {int(room)} workers")
    at_once = max(1, min(feeding_room // each, actor_room))
    return replace(plan, workers=each, actors=max(1, plan.actors // at_once), actors_to_come=0), at_once


def _room(nodes: Sequence[Node], gpus: float, max_gpus: int | None = None) -> int:
    """Count the processes with so many GPUs each that fit on the nodes, beside what feeds them, and into `max_gpus`."""
    slots = sum(_slots_of(node, gpus) for node in nodes)
    return slots if max_gpus is None else min(slots, int(max_gpus / gpus + ROUNDING))


def _slots_of(node: Node, gpus: float) -> int:
    if gpus >= 1:
        by_gpus = int(node.gpus / gpus + ROUNDING)
    else:
        # Ray does not divide a process between two GPUs.
        on_each = int(1 / gpus + ROUNDING)
        by_gpus = int(node.gpus) * on_each + int((node.gpus - int(node.gpus)) / gpus + ROUNDING)
    by_cpus = math.inf if math.isinf(node.cpus) else int(SHARE * node.cpus / LEAST_CPUS + ROUNDING)
    return int(min(by_gpus, by_cpus))


def _share_beside_gpus(nodes: Sequence[Node], gpus: float) -> float:
    """Return the CPUs of each process, so that all whose GPUs fit on a node leave `SHARE` of its CPUs free."""
    shares = [SHARE * node.cpus / slots for node in nodes if (slots := _slots_of(node, gpus))]
    return _rounded_down(min(1.0, *shares))


def _threads(nodes: Sequence[Node], gpus: float, processes: int) -> int:
    """Return the torch threads of a process, a CPU of its part of a node left free."""
    on_nodes = [(node.cpus, slots) for node in nodes if (slots := _slots_of(node, gpus))]
    even = math.ceil(processes / len(on_nodes))
    return max(1, min(int(cpus // min(slots, even)) for cpus, slots in on_nodes) - 1)


def _largest_share(nodes: Sequence[Node], count: int, key: str) -> float:
    """Return the most CPUs, up to one, that so many processes can ask for together within `SHARE` of every node."""
    halves = sorted({SHARE * node.cpus for node in nodes})
    shares = [1.0, *(_rounded_down(half / number) for half in halves for number in range(1, count + 1))]
    fitting = [share for share in shares if 0 < share <= 1 and _count(nodes, share, SHARE) >= count]
    if not fitting:
        raise StudyError(f"resources.{key} is {count}, more than {len(nodes)} machines have room for; ask for fewer")
    share = max(fitting)
    # Ray Data would run the readers in the actors, not ahead of them, if both asked for the same.
    return share if share != READER_CPUS else _rounded_down(share - LEAST_CPUS)


def _count(nodes: Sequence[Node], cpus: float, part: float) -> int:
    """Count the processes with so many CPUs each that fit within a part of every node."""
    return sum(int(part * node.cpus / cpus + ROUNDING) for node in nodes)


def _rounded_down(cpus: float) -> float:
    return math.floor(cpus * UNITS + ROUNDING) / UNITS
