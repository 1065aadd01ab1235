"""Starts processes as the stages of a planned study do, as many at once as will share a machine, and times them."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from instsel.config.study import StudyConfig
from instsel.config.training import Training
from instsel.console import Terminal
from instsel.errors import StudyError
from instsel.pipeline.fisher import GROUPS
from instsel.planner.elsewhere import TargetCluster
from instsel.planner.facts import Facts, Fisher, Throughput
from instsel.planner.matrix import Matrix, seconds_to_solve
from instsel.planner.processes import ModelProcess, steps_of
from instsel.planner.rows import pick_batches, pick_rows
from instsel.planner.sample import Part, examples
from instsel.planner.timing import Timed
from instsel.runtime.actors import EXAMPLE
from instsel.runtime.session import machine_memory
from instsel.runtime.training_group import train_settings
from instsel.study.resources import ResourcePlan

TIMED_BATCHES = 4  # by each process
TIMED_ROWS = 48  # of training steps
ROOM_SECONDS = 300
SEED = 0


class Stopwatch:
    """Times stages and keeps what they took.

    Attributes:
        paces: stage, or `attribution/WAY` -> what was measured.
        fisher: what its matrices take, where a way needs them.
        checkpoint_bytes: files of a checkpoint.
        machine: memory of the smallest machine that was met, bytes.
    """

    def __init__(
        self,
        study: StudyConfig,
        share: ResourcePlan,
        terminal: Terminal,
        elsewhere: TargetCluster | None = None,
    ) -> None:
        self.study, self.share, self.terminal = study, share, terminal
        self.elsewhere = elsewhere or TargetCluster()
        self.paces: dict[str, Throughput] = {}
        self.fisher: Fisher | None = None
        self.checkpoint_bytes = self.elsewhere.checkpoint_bytes
        self.machine = machine_memory()
        self._trained: dict[tuple[int, int], Throughput] = {}

    def attribution(self, facts: Facts) -> None:
        """Every way to take influence that is not done, on random numbers."""
        dim = self.study.features.dim
        ways = {name: facts.influences[name] for name in facts.todo["attribution"]}
        columns = {name: facts.columns(influence) for name, influence in ways.items()}
        began = time.monotonic()
        actor: Any = ray.remote(Matrix).options(num_cpus=0.5).remote()
        try:
            ray.get(actor.ready.remote())
            start = time.monotonic() - began
            times = ray.get(actor.times.remote(sorted(set(columns.values())), dim))
        finally:
            ray.kill(actor)
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        together = _on_one_machine(cpus, gpus=0)
        for name, count in columns.items():
            self.paces[f"attribution/{name}"] = Throughput(start, 1 / times.score[count], times.memory, cpus, together)
        if any(influence.damping is not None for influence in ways.values()):
            summing = Throughput(start, 1 / times.sum, times.memory, cpus, together)
            self.fisher = Fisher(summing, min(GROUPS, facts.shards), seconds_to_solve(dim, max(columns.values())))

    def batches(
        self,
        stage: str,
        parts: Sequence[Part],
        budget: int,
        *,
        process: Any = ModelProcess,
        columns: Sequence[str] = EXAMPLE,
    ) -> None:
        """Batches of a stage of model actors.

        Args:
            stage: its name, which is that of the process' method.
            parts: rows that batches are made of.
            budget: tokens of a batch.
            process: class that does the work.
            columns: of the rows, that it needs.
        """
        if self._known(stage):
            return
        share = self.share
        together = _on_one_machine(share.actors, share.gpus)
        warm_up, timed = pick_batches([part.rows for part in parts], budget, TIMED_BATCHES * together)
        first, rest = (examples(parts, found, columns) for found in (warm_up, timed))
        began = time.monotonic()
        with _processes(process, together, share.cpus, share.gpus, (share.threads, self.study)) as actors:
            ready = time.monotonic() - began
            calls = [
                getattr(actor, stage).remote(first, rest[number::together] or rest)
                for number, actor in enumerate(actors)
            ]
            found = _results(calls)
        self._keep(stage, ready, found, share.actors, share.gpus)
        self.terminal.say(f"timed {self.paces[stage].timed} batches of {stage} on {_processes_text(together)}")

    def training(self, stage: str, parts: Sequence[Part], training: Training) -> None:
        """Steps of a stage that trains; stages with batches of one size share them."""
        if self._known(stage):
            return
        share = self.share
        key = (training.batch_size, training.micro_batch_size)
        if key not in self._trained:
            together = _on_one_machine(share.workers, share.worker_gpus)
            workers = self.elsewhere.workers(self.study, together) or share.workers
            together = min(together, workers)
            settings = steps_of(train_settings(self.study, training, workers), together, workers)
            size = settings.batch_size
            steps = max(1, TIMED_ROWS // size)
            picks = pick_rows([part.rows for part in parts], size, steps * size, SEED)
            warm_up, timed = ([row for rows in examples(parts, found) for row in rows] for found in picks)
            arguments = (share.worker_threads, self.study)
            began = time.monotonic()
            with _processes(ModelProcess, together, share.worker_cpus, share.worker_gpus, arguments) as actors:
                ready = time.monotonic() - began
                address = ray.get(actors[0].address.remote())
                found = _results(
                    [
                        actor.train.remote(settings, warm_up, timed, rank, together, address)
                        for rank, actor in enumerate(actors)
                    ]
                )
            self._keep(stage, ready, found, share.workers, share.worker_gpus)
            self._trained[key] = replace(self.paces[stage], step_rows=size / together)
            self.terminal.say(f"timed {found[0].batches} training steps of {size} rows on {_processes_text(together)}")
        self.paces[stage] = self._trained[key]

    def _known(self, stage: str) -> bool:
        pace = self.elsewhere.pace(self.study, stage)
        if pace is not None:
            self.paces[stage] = pace
        return pace is not None

    def _keep(self, stage: str, ready: float, found: Sequence[Timed], processes: int, gpus: float) -> None:
        exhausted = any(timed.exhausted for timed in found)
        self.machine = min(self.machine, *(timed.machine for timed in found))
        self.checkpoint_bytes = max(self.checkpoint_bytes, *(timed.checkpoint_bytes for timed in found))
        self.paces[stage] = Throughput(
            start=ready + max(timed.first for timed in found),
            speed=None if exhausted else fmean(timed.tokens / timed.seconds for timed in found),
            memory=max(timed.memory for timed in found),
            processes=processes,
            together=_on_one_machine(processes, gpus),
            gpu_memory=max(timed.gpu_memory for timed in found),
            gpu_total=max(timed.gpu_total for timed in found),
            gpu_share=gpus,
            token_budget=min((timed.token_budget for timed in found if timed.token_budget), default=0),
            timed=sum(timed.batches for timed in found),
            width=max(timed.width for timed in found),
            device=found[0].device,
        )


def _on_one_machine(processes: int, gpus: float) -> int:
    """How many processes share a machine, if they are spread over those that can hold them."""
    able = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU" if gpus else "CPU")]
    return math.ceil(processes / max(1, len(able)))


def _processes_text(together: int) -> str:
    return "1 process" if together == 1 else f"{together} processes at once"


@contextmanager
def _processes(
    process: Any, together: int, cpus: float, gpus: float, arguments: tuple[Any, ...]
) -> Iterator[list[Any]]:
    """Processes on one machine, where there is room on one, with their models loaded; they end with the block."""
    bundle = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    group = placement_group([bundle] * together, strategy="PACK")
    actors: list[Any] = []
    try:
        if not group.wait(ROOM_SECONDS):
            raise StudyError(
                f"no room on the cluster for {together} processes of {cpus:g} CPU and {gpus:g} GPU within "
                f"{ROOM_SECONDS} s; is it busy? Wait, or change resources.actors or resources.gpus_per_actor"
            )
        for number in range(together):
            where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)
            made: Any = ray.remote(process).options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=where)
            actors.append(made.remote(*arguments))
        ray.get([actor.ready.remote() for actor in actors])
        yield actors
    finally:
        for actor in actors:
            ray.kill(actor)
        remove_placement_group(group)


def _results(calls: list[Any]) -> list[Timed]:
    """What processes return; without waiting for the others of one that ran out of memory, as they wait for it."""
    found: list[Timed] = []
    while calls and not any(timed.exhausted for timed in found):
        done, calls = ray.wait(calls)
        found += ray.get(done)
    return found
