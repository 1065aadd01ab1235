"""How the stages of a study share a cluster."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ResourcePlan:
    """How a stage's model actors and training workers share a cluster.

    Attributes:
        actors: number of model actors; gpus, cpus: what each asks Ray for; threads: torch threads of each.
        actors_to_come: more of them, which begin once GPUs that were asked for have come.
        workers: number of training workers; worker_gpus, worker_cpus, worker_threads: the same for those.
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
