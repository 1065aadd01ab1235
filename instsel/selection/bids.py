"""BIDS: picks that always serve the validation example the choice so far serves worst (arXiv 2501.12147, Algorithm 1).

The rule takes, at every step, the row i with the largest max_j (z_ij - c_j), where z is the attribution standardised by
column and c the mean of z over the rows taken. The two maxima can change places: it is the column j with the largest
(max_i z_ij) - c_j over rows not yet taken. A column's best row not yet taken never depends on c, so with the columns
ranked once a step costs O(m) in place of O(n m), and nothing is approximated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import numpy as np
from pydantic import Field

from instsel import arrays
from instsel.selection.base import InfluenceData, InfluenceMethod, Selection
from instsel.selection.cost import FLOAT64, MIB, Shape
from instsel.selection.influence import ColumnRanking, column_moments, rank_columns
from instsel.selection.pickers import Picker
from instsel.selection.quotas import take


def select(attribution: np.ndarray, budget: int, *, normalize: bool = True) -> Selection:
    """Pick rows by the iterative rule, equal pick for pick to the plain loop in float64.

    Before the first pick c is 0. The picks do not depend on the unit of a column when `normalize` is true; columns of
    zero (or overflowing) deviation are then dropped with a warning that names them. A pool of one row has no
    deviations and is taken as it is.

    Args:
        attribution: (n, m), any real dtype; read in blocks, so that it may be memory-mapped.
        budget: rows wanted, k; above n gives all n. Memory beside the attribution is about 12 k m bytes
            and some blocks of 128 MiB.
        normalize: standardise the columns (population deviation); false is the paper's unnormalised ablation.

    Returns:
        Selection whose scores are z_ij - c_j at the pick and whose `driven_by` is that j, a column of `attribution`;
        ties go to the lowest row and, for one row, to the lowest column.

    Raises:
        ValueError: wrong rank, no columns, NaN or infinity, a negative budget, no column with a deviation.
    """
    matrix = arrays.attribution_matrix(attribution)
    count = arrays.budget(budget, len(matrix))
    if count == 0:
        return Selection(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
    standard = _Standard.of(matrix) if normalize and len(matrix) > 1 else _Standard.identity(matrix)
    return take([_Walk(standard, count)], repeat(0), len(matrix), count)


def pickers(
    attribution: np.ndarray, groups: Sequence[np.ndarray], count: int, *, normalize: bool = True
) -> list[Picker]:
    """Return the walk of each target for a choice by quotas (`instsel.selection.quotas`).

    Columns are standardised over all rows, and the mean c of a target is that of the rows which it took itself.

    Args:
        attribution: (n, m), as for `select`.
        groups: int64 columns of each target.
        count: picks of all targets together, from 1 to n.
        normalize: as for `select`.

    Raises:
        ValueError: as `select` does, or a target has no column with a deviation.
    """
    matrix = arrays.attribution_matrix(attribution)
    standard = _Standard.of(matrix) if normalize and len(matrix) > 1 else _Standard.identity(matrix)
    return [_Walk(standard.only(columns), count) for columns in groups]


@dataclass(frozen=True)
class _Standard:
    """The attribution seen through its columns' means and deviations, without a copy of it."""

    matrix: np.ndarray  # (n, all columns)
    columns: np.ndarray  # int64 (m,), those kept
    mean: np.ndarray  # float64 (m,)
    deviation: np.ndarray  # float64 (m,)

    @classmethod
    def of(cls, matrix: np.ndarray) -> "_Standard":
        return cls(matrix, *column_moments(matrix, "bids"))

    @classmethod
    def identity(cls, matrix: np.ndarray) -> "_Standard":
        columns = matrix.shape[1]
        return cls(matrix, np.arange(columns), np.zeros(columns), np.ones(columns))

    def only(self, columns: np.ndarray) -> "_Standard":
        """Return the same of some of the columns."""
        kept = np.isin(self.columns, columns)
        if not kept.any():
            raise ValueError(
                f"each target must have a column that varies over the rows, none of {columns.tolist()} does"
            )
        return _Standard(self.matrix, self.columns[kept], self.mean[kept], self.deviation[kept])

    def part(self, columns: slice) -> np.ndarray:
        """Return float64 (n, columns) of the kept columns."""
        values = self.matrix[:, self.columns[columns]].astype(np.float64)
        values -= self.mean[columns]
        values /= self.deviation[columns]
        return values

    def row(self, row: int) -> np.ndarray:
        """Return float64 (m,)."""
        values: np.ndarray = (self.matrix[row, self.columns].astype(np.float64) - self.mean) / self.deviation
        return values


class _Walk:
    """The picks of one walk, with the best free row of every column (its head) at hand."""

    def __init__(self, standard: _Standard, count: int) -> None:
        """Rank the columns.

        Args:
            standard: the columns that the walk serves.
            count: picks of all walks in the same pool, from 1 to n.
        """
        self._standard = standard
        # After t picks at most t of a column's best rows are taken.
        self._ranking = rank_columns(standard.matrix, len(standard.columns), count, standard.part)
        self._picks, self._total = 0, np.zeros(len(standard.columns))
        self._depths = np.zeros(len(standard.columns), dtype=np.int64)
        self._head_rows, self._heads = self._ranking.rows[:, 0].copy(), self._ranking.values[:, 0].copy()

    def pick(self, taken: np.ndarray) -> tuple[int, float, int | None]:
        self._move_heads(taken)
        mean = self._total / max(self._picks, 1)
        shortfalls = self._heads - mean
        tied = np.flatnonzero(shortfalls == shortfalls.max())
        row = min(
            _lowest_row(self._standard, self._ranking, column, self._depths, mean, taken) for column in tied.tolist()
        )
        values = self._standard.row(row)
        driver = int((values - mean).argmax())
        self._total += values
        self._picks += 1
        return row, float(shortfalls[tied[0]]), int(self._standard.columns[driver])

    def _move_heads(self, taken: np.ndarray) -> None:
        """Move the heads that are taken down their columns to the next free row."""
        behind = moved = np.flatnonzero(taken[self._head_rows])
        while behind.size:
            self._depths[behind] += 1
            self._head_rows[behind] = self._ranking.rows[behind, self._depths[behind]]
            behind = behind[taken[self._head_rows[behind]]]
        self._heads[moved] = self._ranking.values[moved, self._depths[moved]]


def _lowest_row(
    standard: _Standard, ranking: ColumnRanking, column: int, depths: np.ndarray, means: np.ndarray, taken: np.ndarray
) -> int:
    """Return the lowest row not taken whose shortfall in the column equals the head's.

    The head is the lowest of the rows with its value. A lower value can still give the same shortfall once rounded;
    only then, or where the ranking ends too early to tell, is the whole column looked at.
    """
    depth, mean, values = int(depths[column]), means[column], ranking.values[column]
    head = int(ranking.rows[column, depth])
    shortfall = values[depth] - mean
    last = len(values) - 1
    if depth < last and values[depth + 1] - mean < shortfall:
        return head
    below = depth + int(np.count_nonzero(values[depth:] == values[depth]))
    if below <= last and values[below] - mean < shortfall:
        return head
    if below > last and len(values) == len(taken):
        return head
    whole = standard.part(slice(column, column + 1))[:, 0]
    return int(np.argmax((whole - mean == shortfall) & ~taken))


class Bids(InfluenceMethod):
    """The greedy that serves the worst served validation example."""

    array_function = staticmethod(select)
    array_pickers = staticmethod(pickers)

    method: Literal["bids"] = Field(
        description="influence standardised per validation example, then a balancing greedy"
    )
    normalize: bool = Field(True, description="standardise each validation example's column first")

    def select(self, data: InfluenceData, budget: int, seed: int) -> Selection:
        return select(data.values, budget, normalize=self.normalize)

    def pickers(self, data: InfluenceData, groups: Sequence[np.ndarray], count: int) -> list[Picker]:
        return pickers(data.values, groups, count, normalize=self.normalize)

    def reasons(self, data: InfluenceData, selection: Selection, seed: int) -> list[str]:
        return data.example_reasons(selection)

    def working_memory(self, shape: Shape) -> int:
        blocks = min(128 * MIB, shape.rows * shape.columns * FLOAT64)
        return ColumnRanking.size(shape.columns, round(shape.chosen)) + 3 * blocks
