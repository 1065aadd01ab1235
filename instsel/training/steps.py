"""The optimizer steps of a worker."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from instsel.data.batching import Example
from instsel.errors import Diverged
from instsel.training.schedule import (
    EpochMetrics,
    PartialEpoch,
    Step,
    TrainSettings,
    epoch_order,
    global_batches,
    learning_rate_at,
    micro_batches,
    steps_per_epoch,
)


class Steps:
    """Takes the optimizer steps of a run, in the order of its rows."""

    def __init__(
        self,
        engine: Any,
        examples: Sequence[Example],
        settings: TrainSettings,
        step: int,
        order: Sequence[NDArray[np.int64]] | None,
    ) -> None:
        self.engine, self.examples, self.settings, self.done, self.order = engine, examples, settings, step, order
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.in_epoch = steps_per_epoch(len(examples), settings.batch_size)
        self.in_run = settings.epochs * self.in_epoch

    def epoch(
        self, epoch: int, partial_epoch: PartialEpoch, after: Callable[[Step, PartialEpoch], None]
    ) -> EpochMetrics:
        """Take one pass over the rows, or the rest of it.

        Args:
            epoch: number of the epoch, from 1.
            partial_epoch: sums of the steps already taken.
            after: called after each step.
        """
        shuffled = epoch_order(len(self.examples), epoch, self.settings.seed)
        order = shuffled if self.order is None else self.order[epoch - 1]
        seconds = 0.0
        for batch in global_batches(order, self.settings.batch_size)[self.done - (epoch - 1) * self.in_epoch :]:
            started = time.monotonic()
            step = self._step(batch)
            partial_epoch = partial_epoch.plus(step)
            seconds += time.monotonic() - started
            after(step, partial_epoch)
        return EpochMetrics(
            epoch=epoch,
            step=self.done,
            loss=partial_epoch.loss / len(self.examples),
            learning_rate=partial_epoch.learning_rate / self.in_epoch,
            tokens=partial_epoch.tokens,
            seconds=seconds,
        )

    def _step(self, batch: NDArray[np.int64]) -> Step:
        settings = self.settings
        rate = learning_rate_at(
            self.done, self.in_run, settings.learning_rate, settings.schedule, settings.warmup_ratio
        )
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        # Sorted, so that rows of similar length share a micro batch, and every worker gets short and long rows.
        rows = sorted((self.examples[int(i)] for i in batch), key=lambda row: -len(row["input_ids"]))
        loss = self._learn(rows)
        self.done += 1
        tokens = sum(len(row["input_ids"]) for row in rows)
        return Step(self.done, self.in_run, len(rows), tokens, loss, rate)

    def _learn(self, rows: list[Example]) -> float:
        """Take an optimizer step on a global batch and return the mean loss over it."""
        engine = self.engine
        accumulation = engine.gradient_accumulation_steps()
        # DeepSpeed divides by the accumulation steps and averages over workers: undo both, then divide by the rows.
        weight = accumulation * self.world_size / len(rows)
        total = torch.zeros(1, dtype=torch.float64, device=engine.device)
        size = engine.train_micro_batch_size_per_gpu()
        for index, micro in enumerate(micro_batches(rows, self.rank, self.world_size, size, accumulation)):
            self._seed_dropout(index)
            # A worker without rows takes part with the shortest row at weight 0.
            losses = engine(micro or rows[-1:])
            summed = losses.sum() * (1.0 if micro else 0.0)
            total += summed.detach()
            if index == accumulation - 1:
                loss = self._mean_over_workers(total, len(rows))
            engine.backward(summed * weight)
            engine.step()
        # ZeRO silently skips a step whose gradient is not finite.
        if not engine.was_step_applied():
            raise self._diverged("gradient is not finite")
        return loss

    def _mean_over_workers(self, total: Tensor, rows: int) -> float:
        dist.all_reduce(total)
        loss = total.item() / rows
        if not np.isfinite(loss):
            raise self._diverged(f"loss is {loss}")
        return loss

    def _diverged(self, reason: str) -> Diverged:
        return Diverged(
            f"the {reason} at step {self.done + 1} of {self.in_run}; lower learning_rate, or set model.dtype to float32"
        )

    def _seed_dropout(self, micro: int) -> None:
        entropy = [self.settings.seed, self.done, self.rank, micro]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1)))
