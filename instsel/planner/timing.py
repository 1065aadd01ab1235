"""Processes that do a little of a stage's work: its own actor, or the training loop, and what that took."""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

# Not used here: a stage's process has it in memory, too.
import ray.data
import torch
import torch.distributed as dist
from torch import nn

from instsel.config.study import Lora, Model
from instsel.data.batching import collate, is_out_of_memory
from instsel.io.store import Folder
from instsel.models.loading import attach_lora, load_on_devices
from instsel.models.loss import answer_losses
from instsel.pipeline.extraction import vector_width
from instsel.planner.cluster import CPU
from instsel.runtime.session import machine_memory, peak_memory
from instsel.study.estimates import CHECKPOINT, BatchProbe, RowSet
from instsel.training.checkpoint import CheckpointState, trainable, write_checkpoint
from instsel.training.deepspeed import AUTO
from instsel.training.loop import train
from instsel.training.schedule import TrainSettings, epoch_order

ENOUGH_SECONDS = 20.0
LENGTHS = ("tokens", "answer_tokens")
"""Columns of the rows that their lengths are in."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Timed:
    """What a process did.

    Attributes:
        first: seconds until it had done what it warmed up with.
        seconds, tokens, batches: of what came after that; tokens with padding for batches, without for training steps.
        memory: largest resident memory, bytes; machine: what its machine has.
        gpu_memory, gpu_total: most memory reserved on one of its GPUs, and what that has; 0 without a GPU.
        device: name of its GPU, or `cpu`.
        checkpoint_bytes: files of a checkpoint, where it wrote one.
        token_budget: of its batches, where it was lowered because memory ran out; else 0.
        width: entries of the vector that it made of a row; 0 where it made none.
        exhausted: memory ran out, and the other numbers say nothing.
    """

    first: float
    seconds: float
    tokens: float
    batches: int
    memory: int
    machine: int
    gpu_memory: int
    gpu_total: int
    device: str
    checkpoint_bytes: int = 0
    token_budget: int = 0
    width: int = 0
    exhausted: bool = False

    @classmethod
    def now(cls, first: float, seconds: float, tokens: float, batches: int) -> "Timed":
        """Return these numbers, with the memory that this process has needed so far."""
        gpus = range(torch.cuda.device_count())
        reserved = ((torch.cuda.max_memory_reserved(gpu), torch.cuda.mem_get_info(gpu)[1]) for gpu in gpus)
        fullest, total = max(reserved, default=(0, 0))
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else CPU
        return cls(first, seconds, tokens, batches, peak_memory(), machine_memory(), fullest, total, device)

    @classmethod
    def out_of_memory(cls, error: BaseException) -> "Timed":
        """Return what there is to say where memory ran out; any other error is raised."""
        if not is_out_of_memory(error):
            raise error
        return replace(cls.now(0.0, 0.0, 0, 0), exhausted=True)


def time_calls(
    call: Callable[[list[Row]], Any],
    warm_up: Sequence[list[Row]],
    timed: Sequence[list[Row]],
    count_tokens: Callable[[list[Row]], int],
) -> Timed:
    """Do batches, the first ones to warm up, and stop after `ENOUGH_SECONDS`.

    Args:
        call: does a batch.
        warm_up: batches whose time counts to the start.
        timed: the other batches.
        count_tokens: returns the padded tokens of a batch.
    """
    start = time.monotonic()
    tokens, batches = 0, 0
    try:
        for rows in warm_up:
            call(rows)
        first = time.monotonic()
        for rows in timed:
            call(rows)
            tokens += count_tokens(rows)
            batches += 1
            if time.monotonic() - first > ENOUGH_SECONDS:
                break
    except (MemoryError, RuntimeError) as error:
        return Timed.out_of_memory(error)
    return Timed.now(first - start, time.monotonic() - first, tokens, batches)


def write_fresh_checkpoint(base: nn.Module, lora: Lora, folder: Path) -> None:
    """Write a checkpoint of fresh LoRA matrices, as a training leaves it, and take them off the model again.

    Adam's moments are 0 and 1, with which a step costs what it does with any others.
    """
    model: Any = attach_lora(base, lora, seed=0)
    weights = {name: parameter.detach().float().cpu() for name, parameter in trainable(model).items()}
    moments = {name: (torch.zeros_like(weight), torch.ones_like(weight)) for name, weight in weights.items()}
    folder.mkdir()
    state = CheckpointState(epoch=1, step=1, learning_rate=1e-4, betas=(0.9, 0.999), eps=1e-8)
    write_checkpoint(folder, model, weights, moments, state)
    model.unload()


class ActorProcess:
    """Holds an actor of a stage, made as the stage makes it, that writes into a temporary folder."""

    def __init__(self, threads: int, probe: BatchProbe, lora: Lora) -> None:
        """Make the actor, which loads its model.

        Args:
            threads: of torch.
            probe: says which actor.
            lora: shape of the LoRA matrices, where the actor is to have a checkpoint.
        """
        self._scratch = tempfile.TemporaryDirectory(prefix="instsel-plan-")
        self._folder = Folder.at(self._scratch.name)
        self._probe, self._spec = probe, probe.actors(self._folder)
        self._actor = self._spec.actor(threads, *self._spec.arguments)
        self._token_budget = self._spec.budget
        if probe.needs_checkpoint:
            write_fresh_checkpoint(self._actor.base, lora, Path(self._scratch.name, CHECKPOINT))

    def ready(self) -> None:
        """Return once the model is loaded."""

    def close(self) -> None:
        """Remove what the actor wrote."""
        self._scratch.cleanup()

    def time(self, warm_up: Sequence[list[Row]], timed: Sequence[list[Row]]) -> Timed:
        """Call the actor with batches of rows, see `time_calls`."""
        result = time_calls(self._call, warm_up, timed, self._count_tokens)
        lowered = self._token_budget if self._token_budget < self._spec.budget else 0
        return replace(result, token_budget=lowered, width=vector_width(self._folder))

    def _call(self, rows: list[Row]) -> None:
        ids = [f"{number:016x}" for number in range(len(rows))]
        batch = [{name: row[name] for name in self._spec.columns} for row in rows]
        self._token_budget = self._actor(dict(self._probe.item), ids, batch)["token_budget"]

    def _count_tokens(self, rows: list[Row]) -> int:
        tokens, answers = (np.array([row[name] for row in rows], dtype=np.int64) for name in LENGTHS)
        inputs = self._probe.model_inputs(RowSet(len(rows), 1, tokens, answers))
        return sum(len(rows) * int(part.lengths.max()) for part in inputs)


class TrainingProcess:
    """Holds the base model with fresh LoRA matrices, and trains as a worker does."""

    def __init__(self, threads: int, model: Model, lora: Lora) -> None:
        torch.set_num_threads(threads)
        self._model = attach_lora(load_on_devices(model), lora, seed=0)
        self._device = next(self._model.parameters()).device

    def ready(self) -> None:
        """Return once the model is loaded."""

    def close(self) -> None:
        """Leave nothing behind."""

    def address(self) -> str:
        """Return where processes that train together can meet."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def join(self, rank: int, workers: int, address: str) -> None:
        """Meet the others; returns when all of them are there."""
        os.environ.setdefault("LOCAL_RANK", "0")
        backend = "nccl" if self._device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=address, rank=rank, world_size=workers)

    def train(self, settings: TrainSettings, warm_up: Sequence[Row], timed: Sequence[Row]) -> Timed:
        """Take optimizer steps: the first on rows to warm up with, the others on rows that are timed.

        Args:
            settings: of the run; its batch size is that of these steps.
            warm_up: rows of one batch.
            timed: rows of some batches.
        """
        rows = [*warm_up, *timed]
        ordered = [rows[0]] * len(rows)
        for row, index in zip(rows, epoch_order(len(rows), 1, settings.seed), strict=True):
            ordered[index] = row
        steps: list[tuple[float, int]] = [(time.monotonic(), 0)]
        sizes: list[int] = [0]
        try:
            train(
                self._model,
                ordered,
                replace(settings, epochs=1),
                lambda network, batch: answer_losses(network, collate(batch, device=self._device)),
                on_step=lambda step: steps.append((time.monotonic(), steps[-1][1] + step.tokens)),
                on_epoch=lambda metrics, folder: sizes.append(_bytes(folder)),
            )
        except (MemoryError, RuntimeError) as error:
            return Timed.out_of_memory(error)
        (start, _), (first, before), *_, (last, after) = steps
        timing = Timed.now(first - start, last - first, (after - before) / dist.get_world_size(), len(steps) - 2)
        return replace(timing, checkpoint_bytes=max(sizes))


class FunctionProcess:
    """Calls a function."""

    def ready(self, function: Callable[..., Any]) -> int:
        """Return, once the function is loaded, the largest resident memory so far, bytes."""
        return peak_memory()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what the function returns."""
        return function(*arguments)


def scale_step(settings: TrainSettings, timed: int, workers: int) -> TrainSettings:
    """Return settings under which `timed` workers have the part of a step that they have among all `workers`."""
    if timed == workers:
        return settings
    rows = max(1, round(settings.batch_size * timed / workers))
    free = {"train_batch_size": AUTO, "gradient_accumulation_steps": AUTO, "train_micro_batch_size_per_gpu": AUTO}
    return replace(settings, batch_size=rows, deepspeed={**settings.deepspeed, **free})


def _bytes(folder: Path | None) -> int:
    return 0 if folder is None else sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
