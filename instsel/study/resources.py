"""How a stage divides a cluster, as plain numbers."""

from dataclasses import dataclass


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
