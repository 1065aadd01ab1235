"""One process of one thread against two of them, each making the features of the same rows."""

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from statistics import median

import torch

from benchmarks.workload import ModelSpec, count_tokens, load_model
from instsel.data.batching import Example
from instsel.gradients.engine import GradientEngine
from instsel.gradients.sketch import CountSketch


@dataclass(frozen=True)
class Scaling:
    """Tokens a second of one process, and of two together, by round."""

    alone: list[float] = field(default_factory=list)
    together: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Median over rounds of two's throughput over one's."""
        return median(both / single for single, both in zip(self.alone, self.together, strict=True))


@dataclass(frozen=True)
class Task:
    """What a process is to do, again and again."""

    spec: ModelSpec
    examples: Sequence[Example]
    budget: int
    dim: int


def measure_scaling(task: Task, rounds: int) -> Scaling:
    """Starts two processes, then lets one of them work alone and both together, in turn.

    Raises:
        RuntimeError: A process ended; its own error is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    scaling = Scaling()
    ends, processes = [], []
    try:
        for _ in range(2):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, task), daemon=True)
            process.start()
            there.close()
            ends.append(here)
            processes.append(process)
        _wait(ends)
        for _ in range(rounds):
            scaling.alone.append(_rate(ends[:1], task))
            scaling.together.append(_rate(ends, task))
    finally:
        for end in ends:
            end.close()
        for process in processes:
            process.join()
    return scaling


def _rate(ends: Sequence[Connection], task: Task) -> float:
    start = time.perf_counter()
    for end in ends:
        end.send("go")
    _wait(ends)
    return len(ends) * count_tokens(task.examples) / (time.perf_counter() - start)


def _wait(ends: Sequence[Connection]) -> None:
    for end in ends:
        try:
            end.recv()
        except EOFError:
            raise RuntimeError("a process of the one-against-two measurement ended; see its error above") from None


def _serve(connection: Connection, task: Task) -> None:
    """Reports that it is ready, then makes the features once for every message, until the other end is closed."""
    torch.set_num_threads(1)
    model = load_model(task.spec, torch.float32)
    # What the moments and weights are is nothing to the time.
    shapes = {name: value.shape for name, value in model.named_parameters() if value.requires_grad}
    moments = {name: (torch.zeros(shape), torch.full(shape, 1e-6)) for name, shape in shapes.items()}
    sketch = CountSketch(task.dim, 0)
    engine = GradientEngine(model, sketch=sketch, moments=moments, token_budget=task.budget)
    engine.features(task.examples[:2])
    connection.send("ready")
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        engine.features(task.examples)
        connection.send("done")
