"""The fine-tuning loop of one worker: DeepSpeed shards, this file decides what is learned from which rows."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from instsel.data.batches import Example
from instsel.errors import Diverged, InputError
from instsel.training.checkpoint import (
    CheckpointState,
    check_finite,
    load_adapter,
    read_checkpoint,
    trainable,
    write_checkpoint,
)
from instsel.training.deepspeed_config import complete, import_deepspeed
from instsel.training.order import check_order
from instsel.training.schedule import (
    epoch_order,
    global_batches,
    learning_rate_at,
    micro_batches,
    steps_per_epoch,
)
from instsel.training.settings import TrainSettings
from instsel.training.sharded import gather, restore

LossFunction = Callable[[nn.Module, Sequence[Example]], Tensor]


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch was.

    Attributes:
        epoch: its number, from 1.
        step: optimizer steps so far, those of earlier epochs included.
        loss: mean over its rows.
        learning_rate: mean over its steps.
        tokens: tokens of all workers in it.
        seconds: its duration, without the checkpoint.
    """

    epoch: int
    step: int
    loss: float
    learning_rate: float
    tokens: int
    seconds: float


class _LossModule(nn.Module):
    """Makes the loss a forward pass, the only thing that DeepSpeed looks at."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, examples: Sequence[Example]) -> Tensor:
        return self.loss_fn(self.model, examples)


def train(
    model: nn.Module,
    examples: Sequence[Example],
    settings: TrainSettings,
    loss_fn: LossFunction,
    *,
    on_epoch: Callable[[Path | None, EpochMetrics], None],
    on_step: Callable[[int, int, int, float], None],
    resume: Path | None = None,
    order: Sequence[NDArray[np.int64]] | None = None,
    until: int | None = None,
) -> None:
    """Train the LoRA matrices of a PEFT model in place.

    The default torch.distributed process group says who takes part, the variable LOCAL_RANK which device a worker has.
    A step's gradient is that of the mean loss over its global batch, so the number of workers changes the result only
    by rounding (and, with LoRA dropout, by the draw of the masks). With the same number of workers a run that stops
    after an epoch and resumes ends with the very weights of a run that does not stop.

    Args:
        model: PEFT model whose trainable parameters are its LoRA matrices.
        examples: rows with at least one answer token each; read by index, every worker sees them all.
        settings: what decides the result.
        loss_fn: model and B rows -> their losses, float32 (B,), each with a gradient.
        on_epoch: called on every worker after each epoch with a checkpoint folder, which is gone afterwards, and the
            epoch's metrics; the folder is None on all workers but the first.
        on_step: called on every worker after each step with steps done, steps of the run, tokens since the start of
            this call, and the loss.
        resume: checkpoint folder to go on from.
        order: places of the rows in each epoch, int64 (N,) an epoch; by default each epoch is shuffled by the seed.
        until: epoch to stop after; by default the last one. The schedule is that of the whole run.

    Raises:
        InputError: DeepSpeed refuses the configuration, the checkpoint is not of this model, or the order not of this
            training.
        Diverged: a loss, gradient, weight or moment is not finite.
    """
    if order is not None:
        check_order(order, len(examples), settings.epochs)
    first_epoch, step = 0, 0
    if resume is not None:
        moments, state = read_checkpoint(resume, model)
        load_adapter(resume, model)
        first_epoch, step = state["epoch"], state["step"]
    masters = {name: parameter.detach().float().clone() for name, parameter in trainable(model).items()}
    engine = _start(model, settings, loss_fn)
    try:
        if resume is not None:
            restore(engine, model, masters, moments, step)
        run = _Run(engine, model, examples, settings, on_step, step, order)
        for epoch in range(first_epoch + 1, (until or settings.epochs) + 1):
            metrics = run.epoch(epoch)
            _checkpoint(run, metrics, on_epoch)
    finally:
        engine.destroy()


def _start(model: nn.Module, settings: TrainSettings, loss_fn: LossFunction) -> Any:
    deepspeed = import_deepspeed()
    config = complete(settings, dist.get_world_size())
    optimizer = torch.optim.AdamW(
        trainable(model).values(),
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )
    try:
        engine, *_ = deepspeed.initialize(
            model=_LossModule(model, loss_fn), optimizer=optimizer, config=config, dist_init_required=False
        )
    except (ValueError, AssertionError) as error:
        raise InputError(f"deepspeed.config: DeepSpeed refuses it: {' '.join(str(error).split())}") from error
    engine.train()
    return engine


class _Run:
    """A run's place: the step it is at and the tokens it has seen."""

    def __init__(
        self,
        engine: Any,
        model: nn.Module,
        examples: Sequence[Example],
        settings: TrainSettings,
        on_step: Callable[[int, int, int, float], None],
        step: int,
        order: Sequence[NDArray[np.int64]] | None,
    ) -> None:
        self.engine, self.model, self.examples, self.settings, self.on_step = engine, model, examples, settings, on_step
        self.step, self.tokens, self.order = step, 0, order
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.total_steps = settings.epochs * steps_per_epoch(len(examples), settings.batch_size)

    def epoch(self, epoch: int) -> EpochMetrics:
        """Take one pass over the rows."""
        started, tokens = time.monotonic(), self.tokens
        losses, rates = [], []
        shuffled = epoch_order(len(self.examples), epoch, self.settings.seed)
        order = shuffled if self.order is None else self.order[epoch - 1]
        for batch in global_batches(order, self.settings.batch_size):
            rate = learning_rate_at(
                self.step,
                self.total_steps,
                self.settings.learning_rate,
                self.settings.schedule,
                self.settings.warmup_ratio,
            )
            for group in self.engine.optimizer.param_groups:
                group["lr"] = rate
            # Rows of like length share a micro batch, and every worker gets short and long ones.
            rows = sorted((self.examples[int(i)] for i in batch), key=lambda row: -len(row["input_ids"]))
            loss = self._take_step(rows)
            self.step += 1
            self.tokens += sum(len(row["input_ids"]) for row in rows)
            losses.append(loss * len(rows))
            rates.append(rate)
            self.on_step(self.step, self.total_steps, self.tokens, loss)
        return EpochMetrics(
            epoch=epoch,
            step=self.step,
            loss=sum(losses) / len(self.examples),
            learning_rate=sum(rates) / len(rates),
            tokens=self.tokens - tokens,
            seconds=time.monotonic() - started,
        )

    def _take_step(self, rows: list[Example]) -> float:
        """One optimizer step on a global batch; the mean loss over it."""
        engine = self.engine
        accumulation = engine.gradient_accumulation_steps()
        # DeepSpeed divides by the accumulation and averages over the workers: undo both, then divide by the rows.
        weight = accumulation * self.world_size / len(rows)
        total = torch.zeros(1, dtype=torch.float64, device=engine.device)
        size = engine.train_micro_batch_size_per_gpu()
        for index, micro in enumerate(micro_batches(rows, self.rank, self.world_size, size, accumulation)):
            self._seed_dropout(index)
            # Without a row of its own, a worker passes the shortest one at weight 0 to keep step with the others.
            losses = engine(micro or rows[-1:])
            summed = losses.sum() * (1.0 if micro else 0.0)
            total += summed.detach()
            if index == accumulation - 1:
                loss = self._mean_over_workers(total, len(rows))
            engine.backward(summed * weight)
            engine.step()
        # ZeRO passes over a step whose gradient is not finite, without a word.
        if not engine.was_step_applied():
            raise self._diverged("gradient is not finite")
        return loss

    def _mean_over_workers(self, total: Tensor, rows: int) -> float:
        dist.all_reduce(total)
        loss = total.item() / rows
        if not np.isfinite(loss):
            raise self._diverged(f"loss is {loss}")
        return loss

    def _diverged(self, what: str) -> Diverged:
        return Diverged(
            f"the {what} at step {self.step + 1} of {self.total_steps}; lower learning_rate, "
            "or set model.dtype to float32"
        )

    def _seed_dropout(self, micro: int) -> None:
        entropy = [self.settings.seed, self.step, self.rank, micro]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1)))


def _checkpoint(run: _Run, metrics: EpochMetrics, on_epoch: Callable[[Path | None, EpochMetrics], None]) -> None:
    weights, moments = gather(run.engine, run.model)
    # Every worker looks, so that all of them stop: one alone would leave the others waiting for it.
    check_finite(weights, moments, run.step)
    if run.rank != 0:
        on_epoch(None, metrics)
        return
    settings = run.settings
    state = CheckpointState(metrics.epoch, metrics.step, metrics.learning_rate, settings.betas, settings.eps)
    with tempfile.TemporaryDirectory(prefix="instsel-") as folder:
        write_checkpoint(Path(folder), run.model, weights, moments, state)
        on_epoch(Path(folder), metrics)
