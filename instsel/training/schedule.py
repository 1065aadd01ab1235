"""Settings, steps, batches and learning rates of a training run, and the metrics of steps and epochs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

# Files of a checkpoint. Named here, since readers of steps need no torch.
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
MOMENTS = "moments.safetensors"
STATE = "checkpoint.json"

RowT = TypeVar("RowT")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training run. The number of workers is not among them, as it does not change the result.

    Attributes:
        epochs: passes over the rows; each ends with a checkpoint.
        batch_size: rows per optimizer step, over all workers.
        micro_batch_size: maximum rows a worker processes at once; affects the result by rounding and dropout masks.
        learning_rate: peak learning rate of AdamW.
        schedule: decay of the learning rate after warmup.
        warmup_ratio: fraction of the steps in which the learning rate rises.
        weight_decay: AdamW's decoupled weight decay.
        max_grad_norm: gradients of a larger norm are scaled down to it.
        seed: seed of the row order and of dropout.
        dtype: of frozen weights and activations; trained weights and moments are always float32.
        betas: AdamW's decay rates of the first and second moment.
        eps: AdamW's denominator constant.
        deepspeed: a DeepSpeed configuration as the user wrote it; "auto" and missing keys are filled in.
    """

    epochs: int
    batch_size: int
    micro_batch_size: int
    learning_rate: float
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    deepspeed: Mapping[str, JsonValue] = field(default_factory=lambda: {"zero_optimization": {"stage": 2}})


@dataclass(frozen=True)
class Step:
    """Metrics of an optimizer step.

    Attributes:
        number: of the step, from 1, counted over all epochs.
        of: steps of the whole run.
        rows: rows of all workers.
        tokens: tokens of all workers.
        loss: mean over the rows, in nats per token.
        learning_rate: of the step.
    """

    number: int
    of: int
    rows: int
    tokens: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class EpochMetrics:
    """Metrics of an epoch.

    Attributes:
        epoch: its number, from 1.
        step: optimizer steps so far, counted over all epochs.
        loss: mean over its rows, in nats per token.
        learning_rate: mean over its steps.
        tokens: tokens of all workers.
        seconds: duration in this process, without checkpoints; in a resumed epoch, since the resumption.
    """

    epoch: int
    step: int
    loss: float
    learning_rate: float
    tokens: int
    seconds: float


@dataclass(frozen=True)
class PartialEpoch:
    """Sums over the steps of an incomplete epoch, stored in checkpoints inside it.

    Attributes:
        loss: sum of the rows' losses.
        learning_rate: sum of the steps' learning rates.
        tokens: of all workers.
    """

    loss: float = 0.0
    learning_rate: float = 0.0
    tokens: int = 0

    def plus(self, step: Step) -> "PartialEpoch":
        """Return the sums with another step added."""
        return PartialEpoch(
            self.loss + step.loss * step.rows, self.learning_rate + step.learning_rate, self.tokens + step.tokens
        )


def epoch_order(n: int, epoch: int, seed: int) -> NDArray[np.int64]:
    """Shuffle the rows of an epoch: a permutation of 0..n-1, int64 (n,), determined by the arguments.

    Args:
        n: number of rows.
        epoch: number of the epoch, from 1.
        seed: seed of the run.
    """
    return np.random.default_rng([seed, epoch]).permutation(n).astype(np.int64)


def global_batches(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Split an epoch's order into batches of `batch_size` rows; the last one has the remainder."""
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Return the optimizer steps of an epoch of n rows."""
    return math.ceil(n / batch_size)


def rows_at_once(batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """Return the maximum rows of a worker at once: a micro batch, or its part of a batch if that is smaller."""
    return min(micro_batch_size, math.ceil(batch_size / world_size))


def accumulation_steps(batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """Return the micro batches that a worker needs for its part of a full global batch."""
    return math.ceil(math.ceil(batch_size / world_size) / micro_batch_size)


def micro_batches(
    rows: list[RowT], rank: int, world_size: int, micro_batch_size: int, accumulation: int
) -> list[list[RowT]]:
    """Return a worker's part of a global batch: exactly `accumulation` micro batches, the last ones possibly empty.

    Worker r of w gets rows r, r + w, r + 2w, ... Every worker gets the same number of micro batches, as each of them
    takes a round of collectives with all workers.

    Args:
        rows: rows of the global batch.
        rank: this worker, from 0.
        world_size: number of workers.
        micro_batch_size: maximum rows of a micro batch.
        accumulation: `accumulation_steps` of a full global batch.
    """
    part = rows[rank::world_size]
    return [part[k * micro_batch_size : (k + 1) * micro_batch_size] for k in range(accumulation)]


def learning_rate_at(step: int, total_steps: int, peak: float, schedule: str, warmup_ratio: float) -> float:
    """Compute the learning rate of a step: a linear rise to the peak, then the schedule. It is always above 0.

    Args:
        step: the step, from 0 to total_steps - 1.
        total_steps: optimizer steps of the whole run.
        peak: highest learning rate.
        schedule: "linear" (to peak / remaining steps), "cosine" (half a period) or "constant".
        warmup_ratio: fraction of the steps in the rise, rounded up to a whole step.

    Raises:
        ValueError: another schedule, or a step outside the run.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step is {step}; expected 0 <= step < {total_steps}")
    warmup = math.ceil(total_steps * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / (total_steps - warmup)
    if schedule == "constant":
        return peak
    if schedule == "linear":
        return peak * (1 - progress)
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * progress))
    raise ValueError(f"schedule is {schedule!r}; expected linear, cosine or constant")
