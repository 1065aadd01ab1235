"""Columns of an attribution in units of their deviation over the pool (BIDS, arXiv 2501.12147, Section 4.1)."""

import warnings
from collections.abc import Iterator

import numpy as np

from instsel.blocks import row_blocks


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
