"""What attribution takes, timed on random numbers of the study's shape."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from instsel.arrays import unit_rows
from instsel.attribution.scores import precondition, score_block, second_moment
from instsel.runtime.session import peak_memory

SCORED_ROWS = 256
SUMMED_ROWS = 512
# The most: what larger matrices take is worked out from these.
SUMMED_DIM = 2048


@dataclass(frozen=True)
class MatrixTimes:
    """Seconds of one row at one checkpoint, scored by number of columns, and summed up; bytes of the process before."""

    score: dict[int, float]
    sum: float
    memory: int


class Matrix:
    """A process that scores, as the stage's own would."""

    def ready(self) -> None:
        """Return once the process has loaded what a process of stage *attribution* has."""
        import instsel.pipeline.attribution  # noqa: F401

    def times(self, columns: Sequence[int], dim: int) -> MatrixTimes:
        """Time some rows.

        Args:
            columns: of the influence matrices.
            dim: of the features.
        """
        memory = peak_memory()
        return MatrixTimes({count: _score(count, dim) for count in columns}, seconds_to_sum(dim), memory)


def seconds_to_sum(dim: int) -> float:
    """Time that this process takes to add one row to a Fisher matrix, which grows as the square of `dim`."""
    width = min(dim, SUMMED_DIM)
    rows = _normal(SUMMED_ROWS, width).astype(np.float16)
    second_moment(rows[:1])
    began = time.monotonic()
    second_moment(rows)
    return (time.monotonic() - began) / SUMMED_ROWS * (dim / width) ** 2


def seconds_to_solve(dim: int, columns: int) -> float:
    """Time that this process takes to solve a Fisher system: d^3 / 3 for the factor, m d^2 for the columns."""
    width, few = min(dim, SUMMED_DIM), min(columns, SUMMED_DIM)
    directions, fisher = _normal(few, width), np.eye(width)
    began = time.monotonic()
    precondition(directions, fisher, 0.1)
    return (time.monotonic() - began) * (dim**3 / 3 + columns * dim**2) / (width**3 / 3 + few * width**2)


def _score(columns: int, dim: int) -> float:
    directions = [unit_rows(_normal(columns, dim))]
    block = [_normal(SCORED_ROWS, dim).astype(np.float16)]
    score_block(block, directions, [1.0])
    began = time.monotonic()
    score_block(block, directions, [1.0])
    return (time.monotonic() - began) / SCORED_ROWS


def _normal(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)
