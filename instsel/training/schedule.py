"""A training run as numbers: its settings, its steps, its learning rates, what each step and epoch measured."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run. How many workers share the work is none of them: it changes no result.

    Attributes:
        epochs: passes over the rows; each ends with a checkpoint.
        batch_size: rows an optimizer step sees, over all workers.
        micro_batch_size: most rows one worker holds at once; another changes the result by rounding, or dropout's draw.
        learning_rate: peak learning rate of AdamW.
        schedule: how the learning rate decays after its rise.
        warmup_ratio: share of the steps over which the learning rate rises.
        weight_decay: AdamW's decoupled weight decay.
        max_grad_norm: gradient norm above which gradients are scaled down to it.
        seed: seed of the row order and of dropout.
        dtype: type of the frozen weights and of activations; trained weights and moments are always float32.
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
    deepspeed: dict[str, Any] = field(default_factory=lambda: {"zero_optimization": {"stage": 2}})


@dataclass(frozen=True)
class Step:
    """What one optimizer step was.

    Attributes:
        number: steps done, this one and those of earlier epochs included.
        of: steps of the whole run.
        rows: rows of all workers in it.
        tokens: tokens of all workers in it.
        loss: mean over its rows.
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
    """What one epoch was.

    Attributes:
        epoch: its number, from 1.
        step: optimizer steps so far, those of earlier epochs included.
        loss: mean over its rows.
        learning_rate: mean over its steps.
        tokens: tokens of all workers in it.
        seconds: its duration in this process, without checkpoints; of an epoch gone on with, only the rest of it.
    """

    epoch: int
    step: int
    loss: float
    learning_rate: float
    tokens: int
    seconds: float


@dataclass(frozen=True)
class PartialEpoch:
    """Sums over the steps of an epoch so far, which a checkpoint inside it carries on.

    Attributes:
        loss: of the rows' losses.
        learning_rate: of the steps' learning rates.
        tokens: of all workers.
    """

    loss: float = 0.0
    learning_rate: float = 0.0
    tokens: int = 0

    def plus(self, step: Step) -> "PartialEpoch":
        """With one more step."""
        return PartialEpoch(
            self.loss + step.loss * step.rows, self.learning_rate + step.learning_rate, self.tokens + step.tokens
        )


def epoch_order(n: int, epoch: int, seed: int) -> NDArray[np.int64]:
    """Order of the rows in one epoch: a permutation of 0..n-1, int64 (n,), the same for the same arguments.

    Args:
        n: number of rows.
        epoch: which epoch, counted from 1.
        seed: seed of the run.
    """
    return np.random.default_rng([seed, epoch]).permutation(n).astype(np.int64)


def global_batches(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Cut an epoch's order into batches of `batch_size` rows; the last one holds what is left."""
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Optimizer steps in one epoch of n rows."""
    return math.ceil(n / batch_size)


def rows_at_once(batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """Most rows that a worker holds at once: a micro batch, or its whole share of a batch where that is smaller."""
    return min(micro_batch_size, math.ceil(batch_size / world_size))


def accumulation_steps(batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """Micro batches that a worker needs for its share of a full global batch."""
    return math.ceil(math.ceil(batch_size / world_size) / micro_batch_size)


def micro_batches(rows: list, rank: int, world_size: int, micro_batch_size: int, accumulation: int) -> list[list]:
    """A worker's share of a global batch: exactly `accumulation` micro batches, the last ones possibly empty.

    Worker r of w takes rows r, r + w, r + 2w, ... Every worker gets the same number of micro batches, because each of
    them is a round of collectives that all must join.

    Args:
        rows: rows of the global batch.
        rank: this worker, from 0.
        world_size: number of workers.
        micro_batch_size: most rows of a micro batch.
        accumulation: what `accumulation_steps` gives for a full global batch.
    """
    own = rows[rank::world_size]
    return [own[k * micro_batch_size : (k + 1) * micro_batch_size] for k in range(accumulation)]


def learning_rate_at(step: int, total_steps: int, peak: float, schedule: str, warmup_ratio: float) -> float:
    """Learning rate of a step: a linear rise to the peak, then the schedule. It is above 0 at every step.

    Args:
        step: the step, from 0 to total_steps - 1.
        total_steps: optimizer steps of the whole run.
        peak: highest learning rate.
        schedule: "linear" (to peak / remaining steps), "cosine" (half a period) or "constant".
        warmup_ratio: share of the steps in the rise, rounded up to a whole step.

    Raises:
        ValueError: the schedule's name is unknown or the step is outside the run.
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
