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
from instsel.selection.base import InfluenceMethod
from instsel.selection.cost import PASS_BYTES, Shape
from instsel.selection.influence import members
from instsel.selection.method_data import InfluenceData
from instsel.selection.picked import Selection
from instsel.selection.pickers import Picker
from instsel.selection.quotas import take
from instsel.selection.ranking import ColumnHeads


def select(
    attribution: np.ndarray, budget: int, *, targets: Sequence[Hashable] | np.ndarray | None = None
) -> Selection:
    """Pick rows in turns: a column at its turn takes its best row that is not yet taken.

    Targets take turns in sorted order, and within a target its columns in order, so that all targets have the same
    number of picks however many columns they have. Without targets the columns take turns. A smaller budget gives the
    beginning of a larger one's picks.

    Args:
        attribution: (n, m), any real dtype; read once by blocks of rows, so that it may be memory-mapped.
        budget: rows wanted, k; above n gives all n. Memory beside the attribution is about 320 k bytes, or 5,120 m
            where that is more, up to 20 k m where columns rank the rows alike.
        targets: (m,) one label a column; the labels must sort.

    Returns:
        Selection whose scores are the values at the picks and whose `driven_by` is the column whose turn it was; ties
        go to the lowest row.

    Raises:
        ValueError: wrong rank or lengths, no columns, NaN or infinity, a label that is NaN or does not sort, a negative
            budget.
    """
    matrix = arrays.attribution_matrix(attribution, finite=False)
    count, columns = arrays.budget(budget, len(matrix)), matrix.shape[1]
    groups = [np.arange(columns)] if targets is None else members("targets", targets, columns)
    if count == 0:
        arrays.attribution_matrix(matrix)
    return take_turns(matrix, groups, count)


def take_turns(matrix: np.ndarray, groups: Sequence[np.ndarray], count: int) -> Selection:
    """Pick rows as `select` does, from a matrix (n, m), which is checked to be finite if there is a row to pick.

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
    return pickers_of(arrays.attribution_matrix(attribution, finite=False), groups, count)


def pickers_of(matrix: np.ndarray, groups: Sequence[np.ndarray], count: int) -> list[Picker]:
    """Return the same as `pickers`, from a matrix (n, m); it is checked to be finite as it is read."""
    heads = ColumnHeads.plain(matrix, count)
    return [_Columns(heads, columns) for columns in groups]


class _Columns:
    """Columns that take turns, each with its best row not yet taken."""

    def __init__(self, heads: ColumnHeads, columns: np.ndarray) -> None:
        self._heads, self._columns, self._turn = heads, columns, 0

    def pick(self, taken: np.ndarray) -> tuple[int, float, int | None]:
        position = self._turn % len(self._columns)
        self._turn += 1
        column = self._columns[position : position + 1]
        self._heads.move(column, taken)
        return int(self._heads.rows[column[0]]), float(self._heads.values[column[0]]), int(column[0])


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
        return ColumnHeads.size(shape.columns, round(shape.chosen)) + PASS_BYTES
