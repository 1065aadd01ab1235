"""The best free row of every column of an attribution, its head, from one pass over the rows.

Rules that serve columns by turns or by need (`bids`, `round_robin`, `bm25`) look only at heads, and a column's head
moves only when its row is taken: about picks / m times. So the best rows of each column are collected as blocks of rows
stream by, some times as deep as that, and again, from the rows that are free then, when a column runs out of them.
"""

import numpy as np

from instsel import arrays
from instsel.selection.influence import column_moments

# Columns want the same rows, some more than others: what is collected is this many times what each takes on average.
DEPTH_FACTOR = 16
LEAST_DEPTH = 256
GROWTH = 4
_WAITING = 2**22
# The system maps what is in memory around a page, too.
_MAPPED_WITH_A_ROW = 2**20
_VALUE_BYTES = 20
"""Of an entry: row, value, standardised value, and the copy while these are sorted."""


def first_depth(columns: int, picks: int) -> int:
    """Return how many of its best rows each of so many columns keeps at first."""
    return min(picks, max(LEAST_DEPTH, DEPTH_FACTOR * -(-picks // max(columns, 1))))


class Collector:
    """The `depth` largest values of every column of the rows that were added, of equal ones those of the first rows."""

    def __init__(self, columns: int, depth: int) -> None:
        self.rows = np.empty((columns, depth), dtype=np.int32)
        self.values = np.empty((columns, depth))
        self._depth = depth
        self._counts = np.zeros(columns, dtype=np.int64)
        self._least = np.full(columns, -np.inf)
        self._new: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._waiting, self._most = 0, max(_WAITING // 4, min(columns * depth, _WAITING))

    def add(self, first_row: int, block: np.ndarray, free: np.ndarray | None = None) -> None:
        """Look at the next rows.

        Args:
            first_row: of the block; blocks come in order.
            block: (b, m), finite.
            free: bool (b,), the rows that count; default all.
        """
        hits = np.flatnonzero(block > self._bounds(block.dtype))
        rows, columns = np.divmod(hits, len(self._counts))
        if free is not None:
            wanted = free[rows]
            rows, columns = rows[wanted], columns[wanted]
        self._new.append(
            (
                columns.astype(np.uint16 if len(self._counts) <= 2**16 else np.int64),
                rows + first_row,
                block[rows, columns],
            )
        )
        self._waiting += len(rows)
        if self._waiting >= self._most:
            self.settle()

    def _bounds(self, dtype: np.dtype[np.generic]) -> np.ndarray:
        """Return what a value must be above, in the dtype of the values: it is one of them, so nothing is rounded."""
        return self._least.astype(dtype) if dtype.kind == "f" else self._least

    def settle(self) -> None:
        """Merge what was added, column by column, and cut it to the depth."""
        columns, rows, values = (np.concatenate(parts) for parts in zip(*self._new, strict=True))
        order = np.argsort(columns, kind="stable")
        counts = np.bincount(columns, minlength=len(self._counts))
        ends = np.cumsum(counts)
        rows, values = rows[order], values[order].astype(np.float64)
        for column in np.flatnonzero(counts).tolist():
            part = slice(ends[column] - counts[column], ends[column])
            self._merge(column, rows[part], values[part])
        self._new, self._waiting = [], 0

    def _merge(self, column: int, rows: np.ndarray, values: np.ndarray) -> None:
        known = self._counts[column]
        rows = np.concatenate([self.rows[column, :known], rows])
        values = np.concatenate([self.values[column, :known], values])
        if len(values) >= self._depth:
            least = np.partition(values, len(values) - self._depth)[len(values) - self._depth]
            kept = values > least
            ties = np.flatnonzero(values == least)
            kept[ties[: self._depth - np.count_nonzero(kept)]] = True
            rows, values, self._least[column] = rows[kept], values[kept], least
        self._counts[column] = len(values)
        self.rows[column, : len(values)] = rows
        self.values[column, : len(values)] = values

    def finish(self) -> None:
        """Merge the rest, once there are no more rows. There were at least `depth` of them."""
        if self._new:
            self.settle()


class ColumnHeads:
    """The best free row of every column, standardised or as it is.

    Attributes:
        columns: int64 (k,), columns of the matrix that are kept; the others are known by their positions among them.
        rows: int64 (k,), the head of each column, equal values by row. It holds after `move`.
        values: float64 (k,), what the column has there.
    """

    def __init__(self, matrix: np.ndarray, picks: int, collected: Collector, moments: tuple[np.ndarray, ...]) -> None:
        """Rank what was collected of all rows.

        Args:
            matrix: (n, m), finite.
            picks: of all who take rows, from 1 to n.
            collected: of all m columns.
            moments: columns that are kept, their means and deviations.
        """
        self.columns, self._mean, self._deviation = moments
        self._matrix, self._picks, self._pages = matrix, picks, arrays.MappedPages(matrix)
        self._rank(collected, len(matrix))

    @classmethod
    def standardised(cls, matrix: np.ndarray, picks: int, method: str) -> "ColumnHeads":
        """Standardise the columns of a matrix (n, m) that may not be finite, and find their heads, in two passes.

        Args:
            matrix: (n, m).
            picks: of all who take rows, from 1 to n.
            method: see `column_moments`.

        Raises:
            ValueError: NaN or infinity, or no column has a deviation.
        """
        collector = Collector(matrix.shape[1], first_depth(matrix.shape[1], picks))
        # Moments first, as they raise where there is something wrong.
        moments = column_moments(matrix, method, visit=collector.add)
        return cls(matrix, picks, collector, moments)

    @classmethod
    def plain(cls, matrix: np.ndarray, picks: int) -> "ColumnHeads":
        """Find the heads of a matrix (n, m) that may not be finite as it is, in a single pass.

        Raises:
            ValueError: NaN or infinity.
        """
        columns = matrix.shape[1]
        collector = Collector(columns, first_depth(columns, picks))
        for block, values in arrays.stream_rows(matrix):
            arrays.check_finite(values, block.start)
            collector.add(block.start, values)
        return cls(matrix, picks, collector, (np.arange(columns), np.zeros(columns), np.ones(columns)))

    @staticmethod
    def size(columns: int, picks: int) -> int:
        """Return the bytes that the heads of so many columns take, and what follows them."""
        return columns * first_depth(columns, picks) * _VALUE_BYTES

    def positions(self, columns: np.ndarray) -> np.ndarray:
        """Return where some columns of the matrix are among those that are kept, int64.

        Raises:
            ValueError: none of them is.
        """
        kept = np.flatnonzero(np.isin(self.columns, columns))
        if not kept.size:
            raise ValueError(
                f"each target must have a column that varies over the rows, none of {columns.tolist()} does"
            )
        return kept

    def row(self, row: int, positions: np.ndarray) -> np.ndarray:
        """Return what a row has in some of the columns, float64."""
        values = self._matrix[row, self.columns[positions]].astype(np.float64)
        self._pages.count(_MAPPED_WITH_A_ROW)
        return np.asarray((values - self._mean[positions]) / self._deviation[positions])

    def move(self, positions: np.ndarray, taken: np.ndarray) -> None:
        """Move the heads of some columns that are taken, bool (n,), on to the next free row."""
        behind = moved = positions[taken[self.rows[positions]]]
        while behind.size:
            self._depths[behind] += 1
            if self._depths[behind].max() >= self._depth:
                self._collect_again(taken)
                return
            self.rows[behind] = self._ranked[behind, self._depths[behind]]
            behind = behind[taken[self.rows[behind]]]
        self.values[moved] = self._values[moved, self._depths[moved]]

    def lowest_equal(self, position: int, mean: float, taken: np.ndarray) -> int:
        """Return the lowest free row whose value, less `mean`, is that of the column's head.

        The head is the lowest of the rows with its value. A lower value can still give the same difference once
        rounded; only then all that was collected is looked at, and more where that ends too early to tell.
        """
        depth, values = int(self._depths[position]), self._values[position]
        shortfall = values[depth] - mean
        if depth + 1 < self._depth and values[depth + 1] - mean < shortfall:
            return int(self.rows[position])
        equal = self._ranked[position, depth:][values[depth:] - mean == shortfall]
        row = int(equal[~taken[equal]].min())
        if self._is_whole:
            return row
        # Rows that were not collected have a lower value than the last that was, or the same and a higher number.
        last, last_row, below = self._bounds[:, position]
        if (last if row > last_row else below) - mean < shortfall:
            return row
        if self._depth < self._left(taken):
            self._collect_again(taken)
            return self.lowest_equal(position, mean, taken)
        return self._lowest_of_all(position, mean, shortfall, taken)

    def _lowest_of_all(self, position: int, mean: float, shortfall: float, taken: np.ndarray) -> int:
        """Look at all rows, for who has as many rows as there are picks left and still cannot tell."""
        for block, values in arrays.stream_rows(self._matrix):
            column = values[:, self.columns[position]].astype(np.float64)
            standard = (column - self._mean[position]) / self._deviation[position]
            equal = np.flatnonzero((standard - mean == shortfall) & ~taken[block])
            if equal.size:
                return int(block.start + equal[0])
        return int(self.rows[position])

    def _left(self, taken: np.ndarray) -> int:
        """Return how many picks are left: no column needs more free rows than that."""
        return self._picks - int(np.count_nonzero(taken))

    def _collect_again(self, taken: np.ndarray) -> None:
        """Collect the best of the free rows, deeper than before, in another pass."""
        left = self._left(taken)
        collector = Collector(self._matrix.shape[1], min(left, max(GROWTH * self._depth, LEAST_DEPTH)))
        self._pages.read_ahead(True)
        for block, values in arrays.stream_rows(self._matrix):
            collector.add(block.start, values, ~taken[block])
        self._rank(collector, len(taken) - int(np.count_nonzero(taken)))

    def _rank(self, collected: Collector, rows: int) -> None:
        """Sort what was collected of so many rows."""
        collected.finish()
        kept, every = self.columns, len(self.columns) == len(collected.rows)
        self._ranked, values = (part if every else part[kept] for part in (collected.rows, collected.values))
        self._depth = values.shape[1]
        self._is_whole = self._depth == rows
        self._depths = np.zeros(len(kept), dtype=np.int64)
        self._bounds = np.empty((3, len(kept)))
        for position in range(len(kept)):
            of_column = values[position]
            least = of_column.min()
            last_row = self._ranked[position, np.flatnonzero(of_column == least)[-1]]
            below = self._below(least)
            mean, deviation = self._mean[position], self._deviation[position]
            self._bounds[:, position] = (least - mean) / deviation, last_row, (below - mean) / deviation
            of_column -= mean
            of_column /= deviation
            # By the standardised value: two that differ can become equal, and are then in the order of their rows.
            order = np.argsort(-of_column, kind="stable")
            self._ranked[position], values[position] = self._ranked[position, order], of_column[order]
        self._values = values
        self.rows, self.values = self._ranked[:, 0].astype(np.int64), values[:, 0].copy()
        self._pages.read_ahead(False)

    def _below(self, value: float) -> float:
        """Return the largest number below a value that the matrix can hold."""
        kind = self._matrix.dtype
        return float(np.nextafter(kind.type(value), kind.type(-np.inf))) if kind.kind == "f" else value - 1
