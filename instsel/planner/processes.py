"""One process of a stage, made as the stage makes it, that does a little of the stage's work and tells what it took."""

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

# Not used here: a stage's process has it in memory, too.
import ray.data
import torch
import torch.distributed as dist

from instsel.config.study import StudyConfig
from instsel.data.batching import BatchFitter, collate
from instsel.evaluation.scoring import heldout_losses
from instsel.gradients.engine import GradientEngine
from instsel.gradients.sketch import CountSketch
from instsel.models.embeddings import Encoder, prompt_text
from instsel.models.hidden_states import represent
from instsel.models.loading import attach_lora, load_on_devices
from instsel.models.loss import answer_losses
from instsel.planner.rows import prompt_tokens
from instsel.planner.timing import Row, Timed, time_batches
from instsel.training.checkpoint import trainable
from instsel.training.deepspeed import AUTO
from instsel.training.loop import train
from instsel.training.schedule import TrainSettings, epoch_order


class ModelProcess:
    """Holds the base model with fresh LoRA matrices."""

    def __init__(self, threads: int, study: StudyConfig) -> None:
        torch.set_num_threads(threads)
        self.study = study
        self.model: Any = attach_lora(load_on_devices(study.model), study.lora, study.warmup.seed)
        self.device = next(self.model.parameters()).device

    def ready(self) -> None:
        """Return once the model is loaded."""

    def address(self) -> str:
        """Where processes that train together can meet."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def features(self, warm_up: Sequence[list[Row]], timed: Sequence[list[Row]]) -> Timed:
        """Take features of batches of pool rows; Adam's moments are 0 and 1, which cost what any others do."""
        features = self.study.features
        moments = {name: (torch.zeros_like(p), torch.ones_like(p)) for name, p in trainable(self.model).items()}
        engine = GradientEngine(
            self.model,
            sketch=CountSketch(features.dim, features.seed),
            moments=moments,
            token_budget=features.token_budget,
        )
        found = time_batches(engine.features, warm_up, timed)
        return found.with_budget(engine.token_budget, features.token_budget)

    def evaluate(self, warm_up: Sequence[list[Row]], timed: Sequence[list[Row]]) -> Timed:
        """Take losses of batches of rows with an adapter on the model."""
        budget = self.study.evaluation.token_budget
        fitter = BatchFitter.forward(budget)
        found = time_batches(lambda rows: heldout_losses(self.model, rows, fitter=fitter), warm_up, timed)
        return found.with_budget(fitter.token_budget, budget)

    def likelihood(self, warm_up: Sequence[list[Row]], timed: Sequence[list[Row]]) -> Timed:
        """Take losses of batches of rows by the base model."""
        with self.model.disable_adapter():
            return self.evaluate(warm_up, timed)

    def hidden_states(self, warm_up: Sequence[list[Row]], timed: Sequence[list[Row]]) -> Timed:
        """Take the base model's representations of batches of rows."""
        base, budget = self.model.get_base_model(), self.study.features.token_budget
        fitter = BatchFitter.forward(budget)
        with self.model.disable_adapter():
            found = time_batches(lambda rows: represent(base, rows, fitter=fitter), warm_up, timed)
        return replace(found, width=base.config.hidden_size).with_budget(fitter.token_budget, budget)

    def train(
        self, settings: TrainSettings, warm_up: list[Row], timed: list[Row], rank: int, size: int, address: str
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
        placed = [rows[0]] * len(rows)
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
                on_step=lambda step: seen.append((time.monotonic(), seen[-1][1] + step.tokens)),
                on_epoch=lambda metrics, folder: written.append(_bytes(folder)),
            )
        except (MemoryError, RuntimeError) as error:
            return Timed.out_of_memory(error)
        (began, _), (first, before), *_, (last, after) = seen
        timing = Timed.of(first - began, last - first, (after - before) / size, len(seen) - 2)
        return replace(timing, checkpoint_bytes=max(written))


class EncoderProcess:
    """Holds the encoder of prompts."""

    def __init__(self, threads: int, study: StudyConfig) -> None:
        torch.set_num_threads(threads)
        self.encoder, self.max_length = Encoder(study.embedding), study.embedding.max_length
        self.token_budget = study.embedding.token_budget

    def ready(self) -> None:
        """Return once the encoder is loaded."""

    def embed(self, warm_up: Sequence[list[Row]], timed: Sequence[list[Row]]) -> Timed:
        """Embed batches of prompts; tokens are those that the study's own tokenizer cut them into."""
        found = time_batches(self._batch, warm_up, timed, self._tokens)
        budgets = self.encoder.fitter.token_budget, self.token_budget
        return replace(found, width=self.encoder.model.config.hidden_size).with_budget(*budgets)

    def _batch(self, rows: list[Row]) -> np.ndarray:
        return self.encoder.embed(self.encoder.tokenise([prompt_text(row["messages"]) for row in rows]))

    def _tokens(self, row: Row) -> int:
        return int(prompt_tokens(row["tokens"], row["answer_tokens"], self.max_length))


def steps_of(settings: TrainSettings, together: int, workers: int) -> TrainSettings:
    """Settings under which `together` workers have the share of a step that they have among all `workers`."""
    if together == workers:
        return settings
    rows = max(1, round(settings.batch_size * together / workers))
    free = {"train_batch_size": AUTO, "gradient_accumulation_steps": AUTO, "train_micro_batch_size_per_gpu": AUTO}
    return replace(settings, batch_size=rows, deepspeed={**settings.deepspeed, **free})


def _bytes(folder: Path | None) -> int:
    return 0 if folder is None else sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
