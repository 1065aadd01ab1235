"""RDS+: every validation example takes turns to take the row most like it (arXiv 2503.01807, Section 3)."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from instsel import arrays
from instsel.arrays import row_blocks, unit_rows
from instsel.selection.base import Requires, TargetedMethod
from instsel.selection.cost import MIB, Shape
from instsel.selection.method_data import HiddenStateData
from instsel.selection.picked import Selection

# Of the rankings that are held at once: a pool that needs deeper ones is ranked again.
_RANKING_BYTES = 2**28
# int64 row and float32 cosine, twice: new ones gather until a ranking is cut to its depth again.
_RANK_BYTES = 24


def select(train: np.ndarray, validation: np.ndarray, budget: int) -> Selection:
    """Pick rows round-robin: validation rows in their order, each takes its most similar row that is not yet taken.

    Similarity is the cosine of float32 unit rows, summed in float64 and rounded to float32, so that equal rows get
    equal cosines in whatever block they stand. In the released code a validation row whose best row is taken already
    loses its turn; here it takes the best that is left, as the paper has it.

    Args:
        train: (n, d) representations of the pool, any real dtype; read in blocks, so that it may be memory-mapped.
        validation: (m, d) representations of the validation rows.
        budget: rows wanted; above n gives all n. Memory beside the representations is that of the rankings, about
            24 m min(budget, n) bytes and no more than 256 MiB, and some blocks of 128 MiB.

    Returns:
        Selection whose scores are cosines and whose `driven_by` is the validation row; ties go to the lowest row.

    Raises:
        ValueError: wrong rank or width, no validation rows, a row that is zero or not finite, a negative budget.
    """
    directions = unit_rows(validation, "validation")
    pool = arrays.matrix("train", train)
    count = arrays.budget(budget, len(pool))
    if len(directions) == 0:
        raise ValueError("validation must have at least one row, got none")
    if pool.shape[1] != directions.shape[1]:
        raise ValueError(f"train must have {directions.shape[1]} columns, as validation has, got shape {pool.shape}")
    turns = _Turns(len(pool), len(directions), count)
    while True:
        turns.take(_rank(pool, directions, turns.free, turns.left))
        if turns.left == 0:
            return Selection(turns.indices, turns.scores, np.arange(count) % len(directions))


class _Ranking:
    """The `depth` highest cosines of a stream, and their rows; of equal ones those that came first."""

    def __init__(self, depth: int) -> None:
        self.depth, self.least = depth, -np.inf
        self.rows, self.cosines = np.empty(0, np.int64), np.empty(0, np.float32)
        self._new: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def add(self, rows: np.ndarray, cosines: np.ndarray) -> None:
        """Look at rows (b,) with their cosines (b,)."""
        better = cosines > self.least
        self._new.append((rows[better], cosines[better]))
        self._waiting += int(np.count_nonzero(better))
        if self._waiting >= self.depth:
            self.settle()

    def settle(self) -> None:
        """Sort what was added into the ranking and cut it to its depth."""
        cosines = np.concatenate([self.cosines, *(values for _, values in self._new)])
        best = np.argsort(-cosines, kind="stable")[: self.depth]
        self.rows = np.concatenate([self.rows, *(rows for rows, _ in self._new)])[best]
        self.cosines = cosines[best]
        self._new, self._waiting = [], 0
        if len(best) == self.depth:
            self.least = self.cosines[-1]


class _Turns:
    """The picks so far. Every turn picks a row, so turn t is that of validation row t modulo m."""

    def __init__(self, rows: int, directions: int, count: int) -> None:
        self.directions, self.count, self.left = directions, count, count
        self.free = np.ones(rows, dtype=bool)
        self.indices, self.scores = np.empty(count, np.int64), np.empty(count)

    def take(self, rankings: list[_Ranking]) -> None:
        """Take turns until nothing is left to pick, or nothing free in the ranking of the row whose turn it is."""
        ranks = [0] * self.directions
        while self.left:
            turn = self.count - self.left
            direction = turn % self.directions
            rows, rank = rankings[direction].rows, ranks[direction]
            while rank < len(rows) and not self.free[rows[rank]]:
                rank += 1
            ranks[direction] = rank
            if rank == len(rows):
                return
            self.indices[turn], self.scores[turn] = rows[rank], rankings[direction].cosines[rank]
            self.free[rows[rank]] = False
            self.left -= 1


def _rank(pool: np.ndarray, directions: np.ndarray, free: np.ndarray, wanted: int) -> list[_Ranking]:
    """Rank the free rows for every direction, `wanted` deep or as deep as the memory allows."""
    count, width = directions.shape
    depth = max(1, min(wanted, _RANKING_BYTES // (_RANK_BYTES * count)))
    rankings = [_Ranking(depth) for _ in range(count)]
    wide = directions.astype(np.float64)
    # Per row: a float32 and a float64 copy, and the cosines in both types.
    for block in row_blocks(len(pool), 12 * (width + count), block_bytes=2**27):
        units = unit_rows(pool[block], "train", first_row=block.start)[free[block]].astype(np.float64)
        rows = np.flatnonzero(free[block]) + block.start
        for ranking, cosines in zip(rankings, (wide @ units.T).astype(np.float32), strict=True):
            ranking.add(rows, cosines)
    for ranking in rankings:
        ranking.settle()
    return rankings


class Rds(TargetedMethod):
    """Round robin over hidden states."""

    requires: ClassVar[Requires] = "hidden_states"
    array_function = staticmethod(select)

    method: Literal["rds"] = Field(
        description="rows most like a validation row in hidden states, validation rows in turn"
    )

    def select(self, data: HiddenStateData, budget: int, seed: int) -> Selection:
        return select(data.values, data.validation, budget)

    def reasons(self, data: HiddenStateData, selection: Selection, seed: int) -> list[str]:
        return data.example_reasons(selection)

    def working_memory(self, shape: Shape) -> int:
        ranking = min(256 * MIB, _RANK_BYTES * shape.columns * round(shape.chosen))
        return ranking + min(128 * MIB, 12 * shape.rows * (shape.hidden + shape.columns))
