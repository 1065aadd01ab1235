"""Round robin: validation examples take turns, and each takes the row that helps it most.

The rule that "A Critical Look at Targeted Instruction Selection" (arXiv 2602.14696) puts beside the maximum over
validation examples (`instance_max`), for influence and for any other score.
"""

from collections.abc import Hashable, Sequence
from itertools import cycle
from typing import Literal

import numpy as np
from pydantic import Field

from instsel import arrays
from instsel.selection.base import InfluenceData, InfluenceMethod, Selection
from instsel.selection.cost import FLOAT64, MIB, Shape
from instsel.selection.influence import ColumnRanking, members, rank_columns
from instsel.selection.pickers import Picker
from instsel.selection.quotas import take


def select(
    attribution: np.ndarray, budget: int, *, targets: Sequence[Hashable] | np.ndarray | None = None
) -> Selection:
    """Pick rows in turns: a column at its turn takes its best row that is not yet taken.

    Targets take turns in sorted order, and within a target its columns in order, so that all targets have the same
    number of picks however many columns they have. Without targets the columns take turns. A smaller budget gives the
    beginning of a larger one's picks.

    Args:
        attribution: (n, m), any real dtype; read in blocks, so that it may be memory-mapped.
        budget: rows wanted, k; above n gives all n. Memory beside the attribution is about 12 k m bytes and some
            blocks of 128 MiB.
        targets: (m,) one label a column; the labels must sort.

    Returns:
        Selection whose scores are the values at the picks and whose `driven_by` is the column whose turn it was; ties
        go to the lowest row.

    Raises:
        ValueError: wrong rank or lengths, no columns, NaN or infinity, a label that is NaN or does not sort, a negative
            budget.
    """
    matrix = arrays.attribution_matrix(attribution)
    count, columns = arrays.budget(budget, len(matrix)), matrix.shape[1]
    groups = [np.arange(columns)] if targets is None else members("targets", targets, columns)
    return take_turns(matrix, groups, count)


def take_turns(matrix: np.ndarray, groups: Sequence[np.ndarray], count: int) -> Selection:
    """Pick rows as `select` does, from a matrix (n, m) that is known to be finite.

    Args:
        matrix: (n, m).
        groups: int64 columns of each target, in the order of their turns; a column that is in none has no turn.
        count: rows wanted, at most n.
    """
    turns = pickers_of(matrix, groups, count) if count else []
    return take(turns, cycle(range(len(groups))), len(matrix), count)


def pickers(attribution: np.ndarray, groups: Sequence[np.ndarray], count: int) -> list[Picker]:
    """Return the turns of each target's columns for a choice by quotas (`instsel.selection.quotas`).

    Args:
        attribution: (n, m), as for `select`.
        groups: int64 columns of each target.
        count: picks of all targets together, from 1 to n.

    Raises:
        ValueError: as `select` does.
    """
    return pickers_of(arrays.attribution_matrix(attribution), groups, count)


def pickers_of(matrix: np.ndarray, groups: Sequence[np.ndarray], count: int) -> list[Picker]:
    """Return the same as `pickers`, from a matrix (n, m) that is known to be finite."""
    # After t picks at most t of a column's best rows are taken.
    ranking = rank_columns(matrix, matrix.shape[1], count, lambda block: matrix[:, block].astype(np.float64))
    return [_Columns(ranking, columns) for columns in groups]


class _Columns:
    """Columns that take turns, each with its best row not yet taken."""

    def __init__(self, ranking: ColumnRanking, columns: np.ndarray) -> None:
        self._ranking, self._columns, self._turn = ranking, columns, 0
        self._depths = np.zeros(len(columns), dtype=np.int64)

    def pick(self, taken: np.ndarray) -> tuple[int, float, int | None]:
        position = self._turn % len(self._columns)
        self._turn += 1
        column, depth = self._columns[position], self._depths[position]
        while taken[self._ranking.rows[column, depth]]:
            depth += 1
        self._depths[position] = depth
        return int(self._ranking.rows[column, depth]), float(self._ranking.values[column, depth]), int(column)


class RoundRobin(InfluenceMethod):
    """Targets in turn, and validation examples within a target."""

    array_function = staticmethod(select)
    array_pickers = staticmethod(pickers)

    method: Literal["round_robin"] = Field(description="targets in turn, and their validation examples, take a row")

    def select(self, data: InfluenceData, budget: int, seed: int) -> Selection:
        return select(data.values, budget, targets=data.column_labels("target"))

    def pickers(self, data: InfluenceData, groups: Sequence[np.ndarray], count: int) -> list[Picker]:
        return pickers(data.values, groups, count)

    def reasons(self, data: InfluenceData, selection: Selection, seed: int) -> list[str]:
        return data.example_reasons(selection)

    def working_memory(self, shape: Shape) -> int:
        blocks = min(128 * MIB, shape.rows * shape.columns * FLOAT64)
        return ColumnRanking.size(shape.columns, round(shape.chosen)) + 3 * blocks
