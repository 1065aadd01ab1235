"""What a process took that did a little of a stage's work."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from instsel.data.batching import is_out_of_memory
from instsel.planner.cluster import CPU
from instsel.runtime.session import machine_memory, peak_memory

ENOUGH_SECONDS = 20.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Timed:
    """What a process did.

    Attributes:
        first: seconds until it had done what it warmed up with.
        seconds, tokens, batches: of what came after that; tokens with padding for batches, without for training steps.
        memory: largest resident memory, bytes; machine: what its machine has.
        gpu_memory, gpu_total: most memory reserved on one of its GPUs, and what that has; 0 without one.
        device: name of its GPU, or `cpu`.
        checkpoint_bytes: files of a checkpoint, where it wrote one.
        token_budget: of its batches, where it was lowered because memory ran out; else 0.
        width: entries of the vector that it made of a row; 0 where it made none.
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
    device: str
    checkpoint_bytes: int = 0
    token_budget: int = 0
    width: int = 0
    exhausted: bool = False

    @classmethod
    def of(cls, first: float, seconds: float, tokens: float, batches: int) -> "Timed":
        """These figures, and the memory that this process has needed so far."""
        gpus = range(torch.cuda.device_count())
        reserved = ((torch.cuda.max_memory_reserved(gpu), torch.cuda.mem_get_info(gpu)[1]) for gpu in gpus)
        fullest, total = max(reserved, default=(0, 0))
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else CPU
        return cls(first, seconds, tokens, batches, peak_memory(), machine_memory(), fullest, total, device)

    def with_budget(self, token_budget: int, asked: int) -> "Timed":
        """With the budget that batches had in the end, where it is below the one that was asked for."""
        return replace(self, token_budget=token_budget if token_budget < asked else 0)

    @classmethod
    def out_of_memory(cls, error: BaseException) -> "Timed":
        """What there is to tell if the error is that memory ran out; any other is raised."""
        if not is_out_of_memory(error):
            raise error
        return replace(cls.of(0.0, 0.0, 0, 0), exhausted=True)


def example_tokens(row: Row) -> int:
    """Tokens of a whole example."""
    return len(row["input_ids"])


def time_batches(
    work: Callable[[list[Row]], Any],
    warm_up: Sequence[list[Row]],
    timed: Sequence[list[Row]],
    tokens_of: Callable[[Row], int] = example_tokens,
) -> Timed:
    """Do batches, the first ones to warm up, and stop after `ENOUGH_SECONDS`.

    Args:
        work: does a batch.
        warm_up: batches whose time counts as that of the start.
        timed: the other batches.
        tokens_of: length of a row.
    """
    began = time.monotonic()
    tokens, batches = 0, 0
    try:
        for rows in warm_up:
            work(rows)
        first = time.monotonic()
        for rows in timed:
            work(rows)
            tokens += len(rows) * max(map(tokens_of, rows))
            batches += 1
            if time.monotonic() - first > ENOUGH_SECONDS:
                break
    except (MemoryError, RuntimeError) as error:
        return Timed.out_of_memory(error)
    return Timed.of(first - began, time.monotonic() - first, tokens, batches)
