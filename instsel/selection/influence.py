"""What a choice serves, and how much of it says the same: figures of a selection, whatever method made it."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from instsel import checks
from instsel.blocks import row_blocks
from instsel.selection.tasks import members


def aid(attribution: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Average Influence Distribution (BIDS, arXiv 2501.12147, Section 3): the mean of the chosen rows.

    Args:
        attribution: (n, m), any real dtype; may be memory-mapped, the chosen rows are read in blocks.
        indices: (k,) the rows chosen, at least one.

    Returns:
        float64 (m,).

    Raises:
        ValueError: wrong rank or dtype, no index or one that is no row, NaN or infinity in a chosen row.
    """
    matrix = checks.matrix("attribution", attribution)
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
    """Task Frequency with Highest Influence (BIDS, arXiv 2501.12147, Section 3): whom the chosen rows serve most.

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
    matrix = checks.matrix("attribution", attribution)
    rows = _rows(indices, len(matrix))
    columns = members("tasks", tasks, matrix.shape[1])
    served = np.zeros(len(columns), dtype=np.int64)
    function = np.max if instance_wise else np.sum
    for block in row_blocks(len(rows), matrix.shape[1] * np.dtype(np.float64).itemsize):
        values = _chosen(matrix, rows[block])
        by_task = np.stack([function(values[:, places], axis=1) for places in columns], axis=1)
        served += np.bincount(by_task.argmax(axis=1), minlength=len(columns))
    return served


def redundancy(features: Iterable[np.ndarray]) -> float:
    """Mean cosine of two of the chosen rows, over all k (k - 1) / 2 pairs, in one pass and O(d) memory.

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
        rows = checks.matrix("features", block).astype(np.float64)
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
