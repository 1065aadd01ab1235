"""What attribution takes, timed on random numbers of a study's shape."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from instsel.arrays import unit_rows
from instsel.attribution.scores import precondition, score_block, second_moment

SCORED_ROWS = 256
SUMMED_ROWS = 512
SUMMED_DIM = 2048
"""The most: what larger matrices take is worked out from these."""


@dataclass(frozen=True)
class AttributionTimes:
    """Seconds that a row at a checkpoint takes.

    Attributes:
        score: number of columns -> to be scored against them.
        sum: to be added to a Fisher matrix.
    """

    score: dict[int, float]
    sum: float


def time_attribution(columns: Sequence[int], dim: int) -> AttributionTimes:
    """Time some rows in this process.

    Args:
        columns: numbers of columns that rows are scored against.
        dim: entries of a feature.
    """
    return AttributionTimes({count: _seconds_to_score(count, dim) for count in columns}, seconds_to_sum(dim))


def seconds_to_sum(dim: int) -> float:
    """Time what this process takes to add a row to a Fisher matrix, which grows as the square of `dim`."""
    width = min(dim, SUMMED_DIM)
    rows = _normal(SUMMED_ROWS, width).astype(np.float16)
    second_moment(rows[:1])
    start = time.monotonic()
    second_moment(rows)
    return (time.monotonic() - start) / SUMMED_ROWS * (dim / width) ** 2


def seconds_to_solve(dim: int, columns: int) -> float:
    """Time what this process takes to solve a Fisher system: d^3 / 3 for the factor, m d^2 for the columns."""
    width, few = min(dim, SUMMED_DIM), min(columns, SUMMED_DIM)
    directions, fisher = _normal(few, width), np.eye(width)
    start = time.monotonic()
    precondition(directions, fisher, 0.1)
    return (time.monotonic() - start) * (dim**3 / 3 + columns * dim**2) / (width**3 / 3 + few * width**2)


def _seconds_to_score(columns: int, dim: int) -> float:
    directions = [unit_rows(_normal(columns, dim))]
    block = [_normal(SCORED_ROWS, dim).astype(np.float16)]
    score_block(block, directions, [1.0])
    start = time.monotonic()
    score_block(block, directions, [1.0])
    return (time.monotonic() - start) / SCORED_ROWS


def _normal(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)
