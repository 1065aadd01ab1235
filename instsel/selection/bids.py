"""BIDS: picks that always serve the validation example the choice so far serves worst (arXiv 2501.12147, Algorithm 1).

The rule takes, at every step, the row i with the largest max_j (z_ij - c_j), where z is the attribution standardised by
column and c the mean of z over the rows taken. The two maxima can change places: it is the column j with the largest
(max_i z_ij) - c_j over rows not yet taken. A column's best row not yet taken never depends on c, so with the columns
ranked once a step costs O(m) in place of O(n m), and nothing is approximated.
"""

from dataclasses import dataclass

import numpy as np

from instsel import arrays
from instsel.selection.base import Selection
from instsel.selection.influence import column_blocks, column_moments


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
    return _walk(standard, _rank(standard, count), count)


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


@dataclass(frozen=True)
class _Ranking:
    """The `depth` best rows of every column, best first, equal values by row."""

    rows: np.ndarray  # int32 (m, depth)
    values: np.ndarray  # float64 (m, depth)


def _rank(standard: _Standard, depth: int) -> _Ranking:
    """Rank the columns as deep as the walk can go: after t picks at most t of a column's best rows are taken."""
    rows = len(standard.matrix)
    columns = len(standard.columns)
    ranking = _Ranking(np.empty((columns, depth), dtype=np.int32), np.empty((columns, depth)))
    for block in column_blocks(standard.matrix, columns):
        for column, values in enumerate(np.ascontiguousarray(standard.part(block).T), start=block.start):
            least = np.partition(values, rows - depth)[rows - depth]
            best = np.flatnonzero(values >= least)
            best = best[np.argsort(-values[best], kind="stable")[:depth]]
            ranking.rows[column] = best
            ranking.values[column] = values[best]
    return ranking


def _walk(standard: _Standard, ranking: _Ranking, count: int) -> Selection:
    """Pick `count` rows, keeping for every column its best row not yet taken (its head)."""
    indices, driven_by = np.empty(count, np.int64), np.empty(count, np.int64)
    scores = np.empty(count)
    taken = np.zeros(len(standard.matrix), dtype=bool)
    total = np.zeros(len(standard.columns))
    places = np.zeros(len(standard.columns), dtype=np.int64)
    head_rows, heads = ranking.rows[:, 0].copy(), ranking.values[:, 0].copy()
    for pick in range(count):
        mean = total / max(pick, 1)
        shortfalls = heads - mean
        tied = np.flatnonzero(shortfalls == shortfalls.max())
        row = min(_lowest_row(standard, ranking, column, places, mean, taken) for column in tied.tolist())
        values = standard.row(row)
        caller = int((values - mean).argmax())
        indices[pick], scores[pick], driven_by[pick] = row, shortfalls[tied[0]], standard.columns[caller]
        total += values
        taken[row] = True
        if pick + 1 < count:
            behind = moved = np.flatnonzero(head_rows == row)
            while behind.size:
                places[behind] += 1
                head_rows[behind] = ranking.rows[behind, places[behind]]
                behind = behind[taken[head_rows[behind]]]
            heads[moved] = ranking.values[moved, places[moved]]
    return Selection(indices, scores, driven_by)


def _lowest_row(
    standard: _Standard, ranking: _Ranking, column: int, places: np.ndarray, means: np.ndarray, taken: np.ndarray
) -> int:
    """Return the lowest row not taken whose shortfall in the column equals the head's.

    The head is the lowest of the rows with its value. A lower value can still give the same shortfall once rounded;
    only then, or where the ranking ends too early to tell, is the whole column looked at.
    """
    place, mean, values = int(places[column]), means[column], ranking.values[column]
    head = int(ranking.rows[column, place])
    shortfall = values[place] - mean
    last = len(values) - 1
    if place < last and values[place + 1] - mean < shortfall:
        return head
    below = place + int(np.count_nonzero(values[place:] == values[place]))
    if below <= last and values[below] - mean < shortfall:
        return head
    if below > last and len(values) == len(taken):
        return head
    whole = standard.part(slice(column, column + 1))[:, 0]
    return int(np.argmax((whole - mean == shortfall) & ~taken))
