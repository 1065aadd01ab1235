"""Which rows a step sees, which of them a worker takes, and the step's learning rate."""

import math

import numpy as np
from numpy.typing import NDArray


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
