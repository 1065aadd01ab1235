"""One process of a stage, made as the stage makes it, that does a little of the stage's work and tells what it took."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

# Not used here: a stage's process has it in memory, too.
import ray.data  # noqa: F401
import torch
import torch.distributed as dist

from instsel.config import StudyConfig
from instsel.data.batches import Example, collate
from instsel.evaluation.heldout import heldout_losses
from instsel.gradients.engine import GradientEngine
from instsel.gradients.fitting import is_out_of_memory
from instsel.gradients.sketch import CountSketch
from instsel.loss import answer_losses
from instsel.model import attach_lora, load_on_devices
from instsel.stages.memory import machine_memory, peak_memory
from instsel.training.checkpoint import trainable
from instsel.training.deepspeed_config import AUTO
from instsel.training.loop import train
from instsel.training.schedule import epoch_order
from instsel.training.settings import TrainSettings

ENOUGH_SECONDS = 20.0


@dataclass(frozen=True)
class Timed:
    """What a process did.

    Attributes:
        first: seconds until it had done what it warmed up with.
        seconds, tokens, batches: of what came after that; tokens with padding for batches, without for training steps.
        memory: largest resident memory, bytes; machine: what its machine has.
        gpu_memory, gpu_total: most memory reserved on one of its GPUs, and what that has; 0 without one.
        checkpoint_bytes: files of a checkpoint, where it wrote one.
        token_budget: of features, where it was lowered because memory ran out; else 0.
        exhausted: memory ran out, and the other figures say nothing.
    """

    first: float
    seconds: float
    tokens: float
    batches: int
    memory: int
    machine: int
    gpu_memory: int
    gpu_total: int
    checkpoint_bytes: int = 0
    token_budget: int = 0
    exhausted: bool = False


class Process:
    """Holds the base model with fresh LoRA matrices."""

    def __init__(self, threads: int, study: StudyConfig) -> None:
        torch.set_num_threads(threads)
        self.study = study
        self.model = attach_lora(load_on_devices(study.model), study.lora, study.warmup.seed)
        self.device = next(self.model.parameters()).device

    def ready(self) -> None:
        """Return once the model is loaded."""

    def address(self) -> str:
        """Where processes that train together can meet."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def features(self, warm_up: Sequence[list[Example]], timed: Sequence[list[Example]]) -> Timed:
        """Take features of batches of pool rows; Adam's moments are 0 and 1, which cost what any others do."""
        features = self.study.features
        moments = {name: (torch.zeros_like(p), torch.ones_like(p)) for name, p in trainable(self.model).items()}
        engine = GradientEngine(
            self.model,
            sketch=CountSketch(features.dim, features.seed),
            moments=moments,
            token_budget=features.token_budget,
        )
        found = self._time(engine.features, warm_up, timed)
        lowered = engine.token_budget if engine.token_budget < features.token_budget else 0
        return replace(found, token_budget=lowered)

    def evaluate(self, warm_up: Sequence[list[Example]], timed: Sequence[list[Example]]) -> Timed:
        """Take losses of batches of held-out rows."""
        budget = self.study.evaluation.token_budget
        return self._time(lambda rows: heldout_losses(self.model, rows, token_budget=budget), warm_up, timed)

    def train(
        self, settings: TrainSettings, warm_up: list[Example], timed: list[Example], rank: int, size: int, address: str
    ) -> Timed:
        """Take optimizer steps with the training loop: one on rows to warm up with, the others on rows to be timed.

        Args:
            settings: of the run; its batch size is that of these steps.
            warm_up: one batch of rows.
            timed: some batches of rows.
            rank: of this process among those that train together.
            size: how many these are.
            address: where they meet.
        """
        rows = [*warm_up, *timed]
        settings = replace(settings, epochs=1)
        placed: list[Example] = [rows[0]] * len(rows)
        for row, place in zip(rows, epoch_order(len(rows), 1, settings.seed), strict=True):
            placed[place] = row
        seen: list[tuple[float, int]] = [(time.monotonic(), 0)]
        written: list[int] = [0]
        os.environ.setdefault("LOCAL_RANK", "0")
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=address, rank=rank, world_size=size)
        try:
            train(
                self.model,
                placed,
                settings,
                lambda network, batch: answer_losses(network, collate(batch, device=self.device)),
                on_step=lambda step, steps, tokens, loss: seen.append((time.monotonic(), tokens)),
                on_epoch=lambda folder, metrics: written.append(_bytes(folder)),
            )
        except (MemoryError, RuntimeError) as error:
            return self._exhausted(error)
        (began, _), (first, before), *_, (last, after) = seen
        timing = self._timing(first - began, last - first, (after - before) / size, len(seen) - 2)
        return replace(timing, checkpoint_bytes=max(written))

    def _time(
        self, work: Callable[[list[Example]], Any], warm_up: Sequence[list[Example]], timed: Sequence[list[Example]]
    ) -> Timed:
        began = time.monotonic()
        tokens, batches = 0, 0
        try:
            for rows in warm_up:
                work(rows)
            first = time.monotonic()
            for rows in timed:
                work(rows)
                tokens += len(rows) * max(len(row["input_ids"]) for row in rows)
                batches += 1
                if time.monotonic() - first > ENOUGH_SECONDS:
                    break
        except (MemoryError, RuntimeError) as error:
            return self._exhausted(error)
        return self._timing(first - began, time.monotonic() - first, tokens, batches)

    def _timing(self, first: float, seconds: float, tokens: float, batches: int) -> Timed:
        gpus = range(torch.cuda.device_count())
        reserved = ((torch.cuda.max_memory_reserved(gpu), torch.cuda.mem_get_info(gpu)[1]) for gpu in gpus)
        fullest, total = max(reserved, default=(0, 0))
        return Timed(first, seconds, tokens, batches, peak_memory(), machine_memory(), fullest, total)

    def _exhausted(self, error: BaseException) -> Timed:
        """What there is to tell if the error is that memory ran out; any other is raised."""
        if not is_out_of_memory(error):
            raise error
        return replace(self._timing(0.0, 0.0, 0, 0), exhausted=True)


def _bytes(folder: Path | None) -> int:
    return 0 if folder is None else sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def steps_of(settings: TrainSettings, together: int, workers: int) -> TrainSettings:
    """Settings under which `together` workers have the share of a step that they have among all `workers`."""
    if together == workers:
        return settings
    rows = max(1, round(settings.batch_size * together / workers))
    free = {"train_batch_size": AUTO, "gradient_accumulation_steps": AUTO, "train_micro_batch_size_per_gpu": AUTO}
    return replace(settings, batch_size=rows, deepspeed={**settings.deepspeed, **free})
