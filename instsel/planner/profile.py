"""Rates of the stages, measured on a sample of the study's rows with the stages' own actors and training loop.

A stage says in a probe what is to be timed. As many processes do it at once as will share a machine.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from instsel.config.study import StudyConfig
from instsel.config.training import Training
from instsel.console import Terminal
from instsel.errors import InputError, StudyError
from instsel.io.store import Folder
from instsel.planner.cluster import TargetCluster
from instsel.planner.rates import MeasuredRate, Probe
from instsel.planner.rows import pick_batches, pick_rows
from instsel.planner.sample import Sample, examples
from instsel.planner.selector_times import selector_seconds
from instsel.planner.timing import LENGTHS, ActorProcess, FunctionProcess, Timed, TrainingProcess, scale_step
from instsel.runtime.session import machine_memory, peak_memory
from instsel.runtime.training_group import train_settings
from instsel.selection.base import Method
from instsel.selection.cost import Shape
from instsel.study.estimates import EXAMPLE, BatchProbe, FunctionRun, Throughput, TrainingProbe
from instsel.study.resources import ResourcePlan

TIMED_BATCHES = 4
"""Of each process."""
TIMED_ROWS = 48
"""Of training steps."""
CAPACITY_SECONDS = 300
CLOSE_SECONDS = 5
SEED = 0


@dataclass(frozen=True)
class Processes:
    """Processes of a stage.

    Attributes:
        count: in the whole cluster.
        cpus, gpus: that each asks for.
        threads: of torch, of each.
        label_selector: labels of the machines that they may run on, as Ray takes them.
    """

    count: int
    cpus: float
    gpus: float
    threads: int
    label_selector: Mapping[str, str] | None = None

    @property
    def per_machine(self) -> int:
        """How many run on a machine, if they are spread over those that can hold them."""
        kind = "GPU" if self.gpus else "CPU"
        labels = (self.label_selector or {}).items()
        able = [
            node
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get(kind) and labels <= node.get("Labels", {}).items()
        ]
        return math.ceil(self.count / max(1, len(able)))


class ClusterProfiler:
    """Measures rates in the Ray session, or takes them from a file, and converts them to the cluster planned for.

    Attributes:
        counts: of the study's rows.
        rates: by the name of the stage: as measured, and as expected where the study is to run.
        failure: why a rate cannot be that of the cluster planned for.
        machine: memory of the smallest machine that was met, bytes.
    """

    def __init__(
        self,
        config: StudyConfig,
        sample: Sample,
        resources: ResourcePlan,
        console: Terminal,
        target: TargetCluster,
    ) -> None:
        """Make a profiler that has measured nothing yet.

        Args:
            config: the checked study file.
            sample: rows to time batches of.
            resources: how actors and workers share this cluster.
            console: where it is shown what was timed.
            target: the cluster planned for, and rates that were measured before.
        """
        self.counts = sample.counts(config)
        self._config, self._sample, self._resources = config, sample, resources
        self._console, self._target = console, target
        self.rates: dict[str, MeasuredRate] = {}
        self.failure: InputError | None = None
        self.machine = machine_memory()
        self._trained: dict[tuple[int, int], Throughput] = {}
        # Before anything is timed: what the driver of the study has, too.
        self._driver_memory = peak_memory()

    def batches(self, probe: BatchProbe) -> Throughput:
        """Return the rate of a stage's actors, see `Profiler`."""
        if probe.name not in self.rates:
            measured = self._target.known_rate(probe) or self._time_batches(probe)
            self._keep(probe, measured)
        return self.rates[probe.name].expected

    def training(self, probe: TrainingProbe) -> Throughput:
        """Return the rate of a training worker, see `Profiler`; steps of the same sizes are timed once."""
        if probe.name not in self.rates:
            sizes = (probe.training.batch_size, probe.training.micro_batch_size)
            measured = self._target.known_rate(probe)
            if measured is None:
                if sizes not in self._trained:
                    self._trained[sizes] = self._time_training(probe.training)
                measured = self._trained[sizes]
            self._keep(probe, measured)
        return self.rates[probe.name].expected

    def run(self, function: Callable[..., Any], *arguments: Any) -> FunctionRun:
        """Run a function in a process of its own, see `Profiler`."""
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        start = time.monotonic()
        actor: Any = ray.remote(FunctionProcess).options(num_cpus=0.5).remote()
        try:
            memory = ray.get(actor.ready.remote(function))
            ready = time.monotonic() - start
            value = ray.get(actor.call.remote(function, *arguments))
        finally:
            ray.kill(actor)
        return FunctionRun(ready, value, memory, cpus, Processes(cpus, 1, 0, 1).per_machine)

    def selection(self, method: Method, columns: int, damping: float | None, width: int) -> Throughput:
        """Return the rate of a selection, see `Profiler`."""
        shape = Shape(
            rows=self.counts.rows,
            chosen=self.counts.chosen,
            columns=columns,
            checkpoints=self._config.warmup.epochs,
            dim=self._config.features.dim,
            embedding=width,
            hidden=width,
            tokens=self.counts.mean_tokens,
            groups=self.counts.groups,
            damping=damping,
        )
        cost = method.cost(shape)
        return Throughput(
            start=selector_seconds(method, shape, self._config.selection.unit),
            speed=1 / self.counts.read_seconds,
            memory=self._driver_memory + cost.memory,
            scratch=cost.scratch,
        )

    def _keep(self, probe: Probe, measured: Throughput) -> None:
        try:
            expected = self._target.convert(probe, measured, self._config.resources)
        except InputError as error:
            # Raised when all rates are measured, which may be kept in a file.
            self.failure, expected = self.failure or error, measured
        self.rates[probe.name] = MeasuredRate(probe, measured, expected)

    def _time_batches(self, probe: BatchProbe) -> Throughput:
        plan = self._resources
        processes = Processes(plan.actors, plan.cpus, plan.gpus, plan.threads, plan.label_selector)
        together = processes.per_machine
        parts = self._sample.pool if probe.rows == "pool" else self._sample.heldout
        actors = probe.actors(Folder.at(self._config.out))
        sets = [probe.model_inputs(part.rows)[0] for part in parts]
        warm_up, timed = pick_batches(sets, actors.budget, TIMED_BATCHES * together)
        columns = dict.fromkeys([*actors.columns, *LENGTHS])
        first, rest = (examples(parts, picks, list(columns)) for picks in (warm_up, timed))
        with _started(ActorProcess, processes, together, (probe, self._config.lora)) as group:
            calls = [
                process.time.remote(first, rest[number::together] or rest)
                for number, process in enumerate(group.processes)
            ]
            results = _results(calls)
        throughput = self._throughput(processes, group.seconds, results)
        self._console.say(f"timed {throughput.timed} batches of {probe.name} on {_count(together)}")
        return throughput

    def _time_training(self, training: Training) -> Throughput:
        plan, config = self._resources, self._config
        processes = Processes(
            plan.workers, plan.worker_cpus, plan.worker_gpus, plan.worker_threads, plan.label_selector
        )
        workers = self._target.workers(config, processes.per_machine) or plan.workers
        together = min(processes.per_machine, workers)
        settings = scale_step(train_settings(config, training, workers), together, workers)
        size = settings.batch_size
        picks = pick_rows([part.rows for part in self._sample.pool], size, max(1, TIMED_ROWS // size) * size, SEED)
        warm_up, timed = (
            [row for rows in examples(self._sample.pool, pick, EXAMPLE) for row in rows] for pick in picks
        )
        with _started(TrainingProcess, processes, together, (config.model, config.lora)) as group:
            address = ray.get(group.processes[0].address.remote())
            joined = [process.join.remote(rank, together, address) for rank, process in enumerate(group.processes)]
            ray.get(joined)
            results = _results([process.train.remote(settings, warm_up, timed) for process in group.processes])
        throughput = self._throughput(processes, group.seconds, results)
        self._console.say(f"timed {results[0].batches} training steps of {size} rows on {_count(together)}")
        return replace(throughput, step_rows=size / together)

    def _throughput(self, processes: Processes, ready: float, results: Sequence[Timed]) -> Throughput:
        exhausted = any(timed.exhausted for timed in results)
        self.machine = min(self.machine, *(timed.machine for timed in results))
        return Throughput(
            start=ready + max(timed.first for timed in results),
            speed=None if exhausted else fmean(timed.tokens / timed.seconds for timed in results),
            memory=max(timed.memory for timed in results),
            processes=processes.count,
            together=processes.per_machine,
            gpu_memory=max(timed.gpu_memory for timed in results),
            gpu_total=max(timed.gpu_total for timed in results),
            gpu_share=processes.gpus,
            token_budget=min((timed.token_budget for timed in results if timed.token_budget), default=0),
            timed=sum(timed.batches for timed in results),
            width=max(timed.width for timed in results),
            device=results[0].device,
            checkpoint_bytes=max(timed.checkpoint_bytes for timed in results),
        )


@dataclass(frozen=True)
class _Group:
    """Processes on a machine, and the seconds until they had loaded their models."""

    processes: list[Any]
    seconds: float


@contextmanager
def _started(kind: Any, asked: Processes, count: int, arguments: tuple[Any, ...]) -> Iterator[_Group]:
    """Start processes on a machine, where they fit on one, with their models loaded; they end with the block.

    Args:
        kind: class whose instances take the number of threads and the arguments.
        asked: what each asks for.
        count: how many to start.
        arguments: of the class.

    Raises:
        StudyError: the cluster has not the capacity for them.
    """
    bundle = {"CPU": asked.cpus, **({"GPU": asked.gpus} if asked.gpus else {})}
    selector = asked.label_selector
    group = placement_group(
        [bundle] * count,
        strategy="PACK",
        bundle_label_selector=None if selector is None else [dict(selector) for _ in range(count)],
    )
    processes: list[Any] = []
    try:
        if not group.wait(CAPACITY_SECONDS):
            raise StudyError(
                f"no room on the cluster for {count} processes of {asked.cpus:g} CPU and {asked.gpus:g} GPU within "
                f"{CAPACITY_SECONDS} s; is it busy? Wait, or change resources.actors or resources.gpus_per_actor"
            )
        start = time.monotonic()
        for index in range(count):
            bundle_of = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
            actor: Any = ray.remote(kind).options(
                num_cpus=asked.cpus, num_gpus=asked.gpus, scheduling_strategy=bundle_of
            )
            processes.append(actor.remote(asked.threads, *arguments))
        ray.get([process.ready.remote() for process in processes])
        yield _Group(processes, time.monotonic() - start)
    finally:
        closed = [process.close.remote() for process in processes]
        if closed:
            # A process that waits for another one that ran out of memory closes nothing.
            ray.wait(closed, num_returns=len(closed), timeout=CLOSE_SECONDS)
        for process in processes:
            ray.kill(process)
        remove_placement_group(group)


def _results(calls: list[Any]) -> list[Timed]:
    """Return what processes return, without waiting for the others where memory ran out, as they wait for it."""
    results: list[Timed] = []
    while calls and not any(timed.exhausted for timed in results):
        done, calls = ray.wait(calls)
        results += ray.get(done)
    return results


def _count(together: int) -> str:
    return "1 process" if together == 1 else f"{together} processes at once"
