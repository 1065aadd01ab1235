"""Facts about a study that is to run on this cluster: its rows, and the pace of every stage that is not done."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from instsel.config import StudyConfig, Training
from instsel.errors import StudyError
from instsel.planning.facts import Facts, Pace
from instsel.planning.rows import pick_batches, pick_rows
from instsel.progress import Terminal
from instsel.stages.graph import Graph
from instsel.stages.memory import machine_memory, peak_memory
from instsel.stages.plan_matrix import Matrix
from instsel.stages.plan_rows import Part, Rows, examples, prepared_rows
from instsel.stages.plan_sample import sampled_rows
from instsel.stages.plan_timing import Process, Timed, steps_of
from instsel.stages.select import rows_to_choose
from instsel.stages.session import Allotment, allot
from instsel.stages.training import train_settings

TIMED_BATCHES = 4  # by each process
TIMED_ROWS = 48  # of training steps
ROOM_SECONDS = 300
SEED = 0
CHOSEN_BYTES = 256  # a chosen row in the files of *select*, messages and tokens left out


def measure(
    study: StudyConfig, graph: Graph, todo: Mapping[str, Sequence[str]], terminal: Terminal
) -> tuple[Facts, int]:
    """Count the rows and time the stages in `todo`; also the memory of the smallest machine that was met, bytes."""
    share = allot(study.resources)
    rows = prepared_rows(graph.prepare) if graph.prepare.done() else sampled_rows(study, terminal)
    terminal.say(rows.told)
    pool_rows = sum(part.rows.rows for part in rows.pool)
    chosen = rows_to_choose(study.selection.budget, pool_rows)
    stopwatch = _Stopwatch(study, share, terminal)
    stopwatch.matrix(rows, chosen, todo)
    if todo["features"]:
        stopwatch.batches("features", rows.pool, study.features.token_budget)
    if todo["evaluate"] and rows.heldout:
        stopwatch.batches("evaluate", rows.heldout, study.evaluation.token_budget)
    for name, training in (("warmup", study.warmup), ("finetune", study.finetune)):
        if todo[name]:
            stopwatch.training(name, rows.pool, training)
    pool, validation, heldout = ([part.rows for part in parts] for parts in (rows.pool, rows.validation, rows.heldout))
    facts = Facts(
        pool,
        validation,
        heldout,
        todo,
        chosen,
        prepare_seconds=rows.seconds,
        prepare_bytes=rows.disk,
        prepare_memory=rows.memory,
        checkpoint_bytes=stopwatch.checkpoint_bytes,
        chosen_bytes=CHOSEN_BYTES + rows.reading.messages / rows.reading.rows,
        paces=stopwatch.paces,
    )
    return facts, stopwatch.machine


class _Stopwatch:
    """Starts processes as the stages do, as many at once as will share a machine, and keeps what they took."""

    def __init__(self, study: StudyConfig, share: Allotment, terminal: Terminal) -> None:
        self.study, self.share, self.terminal = study, share, terminal
        self.paces: dict[str, Pace] = {}
        self.checkpoint_bytes = 0
        self.machine = machine_memory()
        self._trained: dict[tuple[int, int], Pace] = {}

    def matrix(self, rows: Rows, chosen: int, todo: Mapping[str, Sequence[str]]) -> None:
        """Attribution and selection, on random numbers."""
        if not (todo["attribution"] or todo["select"]):
            return
        pool, columns = (sum(part.rows.rows for part in parts) for parts in (rows.pool, rows.validation))
        methods = todo["select"]
        began = time.monotonic()
        actor: Any = ray.remote(Matrix).options(num_cpus=0.5).remote()
        try:
            ray.get(actor.ready.remote())
            start = time.monotonic() - began
            times = ray.get(actor.times.remote(pool, columns, self.study.features.dim, chosen, methods))
        finally:
            ray.kill(actor)
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self.paces["attribution"] = Pace(start, 1 / times.score, times.memory, cpus, _on_one_machine(cpus, gpus=0))
        read_back = rows.reading.seconds / rows.reading.rows
        for method in methods:
            self.paces[f"select/{method}"] = Pace(0.0, 1 / (times.select[method] + read_back), peak_memory())

    def batches(self, stage: str, parts: Sequence[Part], budget: int) -> None:
        """Batches of a stage of model actors."""
        share = self.share
        together = _on_one_machine(share.actors, share.gpus)
        warm_up, timed = pick_batches([part.rows for part in parts], budget, TIMED_BATCHES * together)
        first, rest = examples(parts, warm_up), examples(parts, timed)
        began = time.monotonic()
        with _processes(together, share.cpus, share.gpus, (share.threads, self.study)) as actors:
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
        share = self.share
        key = (training.batch_size, training.micro_batch_size)
        if key not in self._trained:
            together = _on_one_machine(share.workers, share.worker_gpus)
            settings = steps_of(train_settings(self.study, training, share.workers), together, share.workers)
            size = settings.batch_size
            steps = max(1, TIMED_ROWS // size)
            picks = pick_rows([part.rows for part in parts], size, steps * size, SEED)
            warm_up, timed = ([row for rows in examples(parts, found) for row in rows] for found in picks)
            began = time.monotonic()
            with _processes(
                together, share.worker_cpus, share.worker_gpus, (share.worker_threads, self.study)
            ) as actors:
                ready = time.monotonic() - began
                address = ray.get(actors[0].address.remote())
                found = _results(
                    [
                        actor.train.remote(settings, warm_up, timed, rank, together, address)
                        for rank, actor in enumerate(actors)
                    ]
                )
            self._keep(stage, ready, found, share.workers, share.worker_gpus)
            self._trained[key] = self.paces[stage]
            self.terminal.say(f"timed {found[0].batches} training steps of {size} rows on {_processes_text(together)}")
        self.paces[stage] = self._trained[key]

    def _keep(self, stage: str, ready: float, found: Sequence[Timed], processes: int, gpus: float) -> None:
        exhausted = any(timed.exhausted for timed in found)
        self.machine = min(self.machine, *(timed.machine for timed in found))
        self.checkpoint_bytes = max(self.checkpoint_bytes, *(timed.checkpoint_bytes for timed in found))
        self.paces[stage] = Pace(
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
        )


def _on_one_machine(processes: int, gpus: float) -> int:
    """How many processes share a machine, if they are spread over those that can hold them."""
    able = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU" if gpus else "CPU")]
    return math.ceil(processes / max(1, len(able)))


def _processes_text(together: int) -> str:
    return "1 process" if together == 1 else f"{together} processes at once"


@contextmanager
def _processes(together: int, cpus: float, gpus: float, arguments: tuple[Any, ...]) -> Iterator[list[Any]]:
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
            made: Any = ray.remote(Process).options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=where)
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
