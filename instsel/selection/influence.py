"""What methods that read influence share: moments and labels of columns, and what a selection serves."""

import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

from instsel import arrays
from instsel.arrays import row_blocks


def column_moments(
    matrix: np.ndarray, method: str, *, visit: Callable[[int, np.ndarray], None] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Take means and deviations, and drop the columns that have no deviation to divide by.

    The matrix is read twice, by blocks of rows, first for the means and then for the deviations from them. Rows are
    added up in their order, so that the last digits do not depend on the blocks.

    Args:
        matrix: (n, m), any real dtype; checked to be finite.
        method: who drops the columns, for the warning that names them.
        visit: called with the first row of each block and the block, in order, as they are read for the means.

    Returns:
        The columns kept, int64 (k,), their means and population deviations over the rows, float64 (k,). Columns of
        zero (or overflowing) deviation are dropped.

    Raises:
        ValueError: NaN or infinity, or no column has a deviation.
    """
    rows, columns = matrix.shape
    total, squares = _RunningSum(columns), _RunningSum(columns)
    low, high = np.full(columns, np.inf), np.full(columns, -np.inf)
    with np.errstate(over="ignore", invalid="ignore"):
        for block, values in arrays.stream_rows(matrix):
            arrays.check_finite(values, block.start)
            np.minimum(low, values.min(axis=0), out=low)
            np.maximum(high, values.max(axis=0), out=high)
            total.add(values)
            if visit is not None:
                visit(block.start, values)
        mean = total.value / rows
        for _, values in arrays.stream_rows(matrix):
            squares.add_squares(values, mean)
        deviation = np.sqrt(squares.value / rows)
    # Rounding of the mean can leave a constant column with a tiny deviation.
    deviation[low == high] = 0
    usable = np.isfinite(deviation) & (deviation > 0)
    kept, dropped = np.flatnonzero(usable), np.flatnonzero(~usable)
    if kept.size == 0:
        raise ValueError(f"attribution must have a column that varies over the rows, got {columns} without deviation")
    if dropped.size:
        warnings.warn(f"{method} drops the attribution columns without deviation: {dropped.tolist()}", stacklevel=4)
    return kept, mean[kept], deviation[kept]


class _RunningSum:
    """The sum of rows, float64 (m,), which are added one after the other whatever the blocks that they come in."""

    def __init__(self, columns: int) -> None:
        self.value = np.zeros(columns)
        self._rows, self._work = 0, np.empty((0, columns))

    def add(self, block: np.ndarray) -> None:
        self._work_of(block)[:] = block
        self._sum(len(block))

    def add_squares(self, block: np.ndarray, mean: np.ndarray) -> None:
        """Add the squares of what remains of a block without the mean."""
        work = self._work_of(block)
        work[:] = block
        work -= mean
        work *= work
        self._sum(len(block))

    def _work_of(self, block: np.ndarray) -> np.ndarray:
        if len(self._work) <= len(block):
            self._work = np.empty((len(block) + 1, block.shape[1]))
        return self._work[1 : len(block) + 1]

    def _sum(self, rows: int) -> None:
        # The sum so far is the first row of the next: numpy adds up rows in their order.
        self._work[0] = self.value
        self.value = self._work[0 if self._rows else 1 : rows + 1].sum(axis=0)
        self._rows += rows


def members(name: str, labels: Sequence[Hashable] | np.ndarray, columns: int) -> list[np.ndarray]:
    """Return the columns of each task, int64, tasks in sorted order.

    Args:
        name: what the labels are, for error messages.
        labels: (columns,); they must sort.
        columns: of the attribution.

    Raises:
        ValueError: wrong rank or length, a label that is NaN or does not sort.
    """
    unique, positions = arrays.labels(name, labels)
    if len(positions) != columns:
        raise ValueError(f"{name} must have one label for each of {columns} columns, got {len(positions)}")
    return [np.flatnonzero(positions == position) for position in range(len(unique))]


def aid(attribution: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Compute the Average Influence Distribution (BIDS, arXiv 2501.12147, Section 3): the mean of the chosen rows.

    Args:
        attribution: (n, m), any real dtype; may be memory-mapped, the chosen rows are read in blocks.
        indices: (k,) the rows chosen, at least one.

    Returns:
        float64 (m,).

    Raises:
        ValueError: wrong rank or dtype, no index or one that is no row, NaN or infinity in a chosen row.
    """
    matrix = arrays.matrix("attribution", attribution)
    rows = _rows(indices, len(matrix))
    if rows.size == 0:
        raise ValueError("indices must be at least one row to average, got none")
    total = np.zeros(matrix.shape[1])
    for block in row_blocks(len(rows), matrix.shape[1] * np.dtype(np.float64).itemsize):
        total += _chosen(matrix, rows[block]).sum(axis=0)
    return total / len(rows)


def thi(
    attribution: np.ndarray, indices: np.ndarray, tasks: Sequence[Hashable] | np.ndarray, *, instance_wise: bool = False
) -> np.ndarray:
    """Compute the Task Frequency with Highest Influence (BIDS, arXiv 2501.12147, Section 3): the tasks that rows serve.

    Args:
        attribution: (n, m), as for `aid`.
        indices: (k,) the rows chosen.
        tasks: (m,) one label a column; the labels must sort.
        instance_wise: a row serves the task of its largest entry, not the one with the largest sum over its columns.

    Returns:
        int64 (tasks,), how many chosen rows serve each of the sorted unique tasks most; ties count for the first.

    Raises:
        ValueError: wrong rank, lengths or dtype, a label that is NaN or does not sort, an index that is no row, NaN
            or infinity in a chosen row.
    """
    matrix = arrays.matrix("attribution", attribution)
    rows = _rows(indices, len(matrix))
    columns = members("tasks", tasks, matrix.shape[1])
    served = np.zeros(len(columns), dtype=np.int64)
    function = np.max if instance_wise else np.sum
    for block in row_blocks(len(rows), matrix.shape[1] * np.dtype(np.float64).itemsize):
        values = _chosen(matrix, rows[block])
        by_task = np.stack([function(values[:, group], axis=1) for group in columns], axis=1)
        served += np.bincount(by_task.argmax(axis=1), minlength=len(columns))
    return served


def redundancy(features: Iterable[np.ndarray]) -> float:
    """Compute the mean cosine of two of the chosen rows, over all k (k - 1) / 2 pairs, in one pass and O(d) memory.

    With u the unit rows it is (|sum u|^2 - k) / (k (k - 1)).

    Args:
        features: blocks (rows, d) of the chosen rows' features, any real dtype; normalised here.

    Returns:
        From -1 / (k - 1) to 1; 0 for fewer than two rows, which have no pair.

    Raises:
        ValueError: a block of the wrong rank, dtype or width, or with a row that is zero or not finite.
    """
    total: np.ndarray | None = None
    count = 0
    for block in features:
        rows = arrays.matrix("features", block).astype(np.float64)
        if total is not None and len(total) != rows.shape[1]:
            raise ValueError(f"features must have {len(total)} columns in every block, got {rows.shape[1]}")
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        bad = np.flatnonzero(~((lengths > 0) & (lengths < np.inf)))
        if bad.size:
            raise ValueError(f"features must have a length above 0, got {lengths[bad[0], 0]} at row {count + bad[0]}")
        part = (rows / lengths).sum(axis=0)
        total = part if total is None else total + part
        count += len(rows)
    if total is None or count < 2:
        return 0.0
    return float((total @ total - count) / (count * (count - 1)))


def _rows(indices: np.ndarray, rows: int) -> np.ndarray:
    """Check that indices are rows of the pool."""
    array = np.asarray(indices)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"indices must be whole numbers (k,), got {array.dtype} of shape {array.shape}")
    bad = np.flatnonzero((array < 0) | (array >= rows))
    if bad.size:
        raise ValueError(f"indices must be from 0 to {rows - 1}, got {array[bad[0]]}")
    return array.astype(np.int64)


def _chosen(matrix: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return float64 (k, m), checked to be finite."""
    values: np.ndarray = matrix[rows].astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise ValueError(f"attribution must be finite, got NaN or infinity at row {rows[bad[0]]}")
    return values
