"""What methods that read influence share: moments, rankings and labels of columns, and what a selection serves."""

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from instsel import arrays
from instsel.arrays import row_blocks


def column_blocks(matrix: np.ndarray, columns: int) -> Iterator[slice]:
    """Split `columns` columns of a matrix into slices whose float64 copy stays near 128 MiB."""
    return row_blocks(columns, len(matrix) * np.dtype(np.float64).itemsize, block_bytes=2**27)


def column_moments(matrix: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Take means and deviations, and drop the columns that have no deviation to divide by.

    Args:
        matrix: (n, m), finite, any real dtype; read in blocks.
        method: who drops the columns, for the warning that names them.

    Returns:
        The columns kept, int64 (k,), their means and population deviations over the rows, float64 (k,). Columns of
        zero (or overflowing) deviation are dropped.

    Raises:
        ValueError: no column has a deviation.
    """
    columns = matrix.shape[1]
    mean, deviation = np.empty(columns), np.empty(columns)
    for block in column_blocks(matrix, columns):
        values = matrix[:, block].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            mean[block] = values.mean(axis=0)
            deviation[block] = values.std(axis=0)
        # Rounding of the mean can leave a constant column with a tiny deviation.
        deviation[block][values.max(axis=0) == values.min(axis=0)] = 0
    usable = np.isfinite(deviation) & (deviation > 0)
    kept, dropped = np.flatnonzero(usable), np.flatnonzero(~usable)
    if kept.size == 0:
        raise ValueError(f"attribution must have a column that varies over the rows, got {columns} without deviation")
    if dropped.size:
        warnings.warn(f"{method} drops the attribution columns without deviation: {dropped.tolist()}", stacklevel=4)
    return kept, mean[kept], deviation[kept]


@dataclass(frozen=True)
class ColumnRanking:
    """The `depth` best rows of every column, best first, equal values by row.

    Attributes:
        rows: int32 (m, depth).
        values: float64 (m, depth).
    """

    rows: np.ndarray
    values: np.ndarray

    @staticmethod
    def size(columns: int, depth: int) -> int:
        """Return the bytes of a ranking."""
        return columns * depth * (np.dtype(np.int32).itemsize + np.dtype(np.float64).itemsize)


def rank_columns(matrix: np.ndarray, columns: int, depth: int, part: Callable[[slice], np.ndarray]) -> ColumnRanking:
    """Rank the rows of every column.

    Args:
        matrix: (n, any), what `part` reads from.
        columns: how many there are to rank, m.
        depth: rows to rank, from 1 to n.
        part: from a slice of the columns to their values, float64 (n, columns).
    """
    rows = len(matrix)
    ranking = ColumnRanking(np.empty((columns, depth), dtype=np.int32), np.empty((columns, depth)))
    for block in column_blocks(matrix, columns):
        for column, values in enumerate(np.ascontiguousarray(part(block).T), start=block.start):
            least = np.partition(values, rows - depth)[rows - depth]
            best = np.flatnonzero(values >= least)
            best = best[np.argsort(-values[best], kind="stable")[:depth]]
            ranking.rows[column] = best
            ranking.values[column] = values[best]
    return ranking


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
