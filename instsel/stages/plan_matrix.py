"""What attribution and the selectors take, timed on random numbers of the study's shape."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from instsel.attribution import score_block, unit_rows
from instsel.selection import bids, less
from instsel.stages.memory import peak_memory

SCORED_ROWS = 256
SELECTED_ROWS = 2048


@dataclass(frozen=True)
class MatrixTimes:
    """Seconds of one row of the pool: scored at one checkpoint, and by selector; bytes of the process before that."""

    score: float
    select: dict[str, float]
    memory: int


class Matrix:
    """A process that scores and selects, as the stages' own would."""

    def ready(self) -> None:
        """Return once the process has loaded what a process of stage *attribution* has."""
        import instsel.stages.attribution  # noqa: F401

    def times(self, rows: int, columns: int, dim: int, chosen: int, methods: Sequence[str]) -> MatrixTimes:
        """Time some rows.

        Args:
            rows: of the pool.
            columns: validation rows.
            dim: of the features.
            chosen: rows of a selection.
            methods: selectors to time; random costs nothing.
        """
        memory = peak_memory()
        random = np.random.default_rng(0)
        score = _score(random, columns, dim)
        count = min(rows, SELECTED_ROWS)
        matrix = random.standard_normal((count, columns), dtype=np.float32)
        picks = max(1, round(chosen * count / rows))
        select = {"random": 0.0}
        if "less" in methods:
            began = time.monotonic()
            less.select(matrix, picks, subtasks=[0] * columns)
            select["less"] = (time.monotonic() - began) / count
        if "bids" in methods:
            began = time.monotonic()
            bids.select(matrix, picks)
            select["bids"] = (time.monotonic() - began) / count
        return MatrixTimes(score, select, memory)


def _score(random: np.random.Generator, columns: int, dim: int) -> float:
    directions = [unit_rows(random.standard_normal((columns, dim), dtype=np.float32))]
    block = [random.standard_normal((SCORED_ROWS, dim), dtype=np.float32).astype(np.float16)]
    score_block(block, directions, [1.0])
    began = time.monotonic()
    score_block(block, directions, [1.0])
    return (time.monotonic() - began) / SCORED_ROWS
