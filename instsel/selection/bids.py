"""BIDS: picks that always serve the validation example the choice so far serves worst (arXiv 2501.12147, Algorithm 1).

The rule takes, at every step, the row i with the largest max_j (z_ij - c_j), where z is the attribution standardised by
column and c the mean of z over the rows taken. The two maxima can change places: it is the column j with the largest
(max_i z_ij) - c_j over rows not yet taken. A column's best row not yet taken never depends on c, so with these rows at
hand (`instsel.selection.ranking`) a step costs O(m) in place of O(n m), and nothing is approximated.
"""

from collections.abc import Sequence
from itertools import repeat
from typing import Literal

import numpy as np
from pydantic import Field

from instsel import arrays
from instsel.selection.base import InfluenceMethod
from instsel.selection.cost import PASS_BYTES, Shape
from instsel.selection.method_data import InfluenceData
from instsel.selection.picked import Selection
from instsel.selection.pickers import Picker
from instsel.selection.quotas import take
from instsel.selection.ranking import ColumnHeads


def select(attribution: np.ndarray, budget: int, *, normalize: bool = True) -> Selection:
    """Pick rows by the iterative rule, equal pick for pick to the plain loop in float64.

    Before the first pick c is 0. The picks do not depend on the unit of a column when `normalize` is true; columns of
    zero (or overflowing) deviation are then dropped with a warning that names them. A pool of one row has no
    deviations and is taken as it is.

    Args:
        attribution: (n, m), any real dtype; read twice by blocks of rows, so that it may be memory-mapped, and then the
            rows that are picked.
        budget: rows wanted, k; above n gives all n. Memory beside the attribution is about 320 k bytes, or 5,120 m
            where that is more, up to 20 k m where columns rank the rows alike.
        normalize: standardise the columns (population deviation); false is the paper's unnormalised ablation.

    Returns:
        Selection whose scores are z_ij - c_j at the pick and whose `driven_by` is that j, a column of `attribution`;
        ties go to the lowest row and, for one row, to the lowest column.

    Raises:
        ValueError: wrong rank, no columns, NaN or infinity, a negative budget, no column with a deviation.
    """
    matrix = arrays.attribution_matrix(attribution, finite=False)
    count = arrays.budget(budget, len(matrix))
    if count == 0:
        arrays.attribution_matrix(matrix)
        return Selection(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
    heads = _heads(matrix, count, normalize)
    return take([_Walk(heads, np.arange(len(heads.columns)))], repeat(0), len(matrix), count)


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
    matrix = arrays.attribution_matrix(attribution, finite=False)
    heads = _heads(matrix, count, normalize)
    return [_Walk(heads, heads.positions(columns)) for columns in groups]


def _heads(matrix: np.ndarray, count: int, normalize: bool) -> ColumnHeads:
    is_standardised = normalize and len(matrix) > 1
    return ColumnHeads.standardised(matrix, count, "bids") if is_standardised else ColumnHeads.plain(matrix, count)


class _Walk:
    """The picks of one walk over some of the columns."""

    def __init__(self, heads: ColumnHeads, positions: np.ndarray) -> None:
        self._heads, self._positions = heads, positions
        self._picks, self._total = 0, np.zeros(len(positions))

    def pick(self, taken: np.ndarray) -> tuple[int, float, int | None]:
        heads, positions = self._heads, self._positions
        heads.move(positions, taken)
        mean = self._total / max(self._picks, 1)
        shortfalls = heads.values[positions] - mean
        best = shortfalls.max()
        tied = np.flatnonzero(shortfalls == best)
        row = min(heads.lowest_equal(int(positions[column]), mean[column], taken) for column in tied)
        values = heads.row(row, positions)
        driver = int((values - mean).argmax())
        self._total += values
        self._picks += 1
        return row, float(best), int(heads.columns[positions[driver]])


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
        return ColumnHeads.size(shape.columns, round(shape.chosen)) + PASS_BYTES
