"""Checks of arguments that are arrays, and loops over blocks of rows."""

import operator
from collections.abc import Hashable, Iterator, Sequence
from typing import SupportsIndex

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike


def matrix(name: str, values: ArrayLike) -> np.ndarray:
    """Return `values` as an array of rank 2 and a real dtype, without copying it.

    Raises:
        ValueError: another rank, or a dtype that is neither floating point nor integer.
    """
    array = np.asarray(values)
    if array.ndim != 2:
        raise ValueError(f"{name} must have rank 2 (rows, columns), got shape {array.shape}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array


def attribution_matrix(values: ArrayLike) -> np.ndarray:
    """Return a selector's attribution (n, m): real, at least one column, finite. It is read in blocks, not copied.

    Raises:
        ValueError: wrong rank or dtype, no columns, or NaN or infinity (the first one's row and column are named).
    """
    array = matrix("attribution", values)
    if array.shape[1] == 0:
        raise ValueError("attribution must have at least one column (validation example), got none")
    for block in row_blocks(array.shape[0], array.shape[1] * array.dtype.itemsize):
        bad = ~np.isfinite(array[block])
        if bad.any():
            row, column = np.argwhere(bad)[0]
            value = array[block][row, column]
            raise ValueError(f"attribution must be finite, got {value} at row {block.start + row}, column {column}")
    return array


def not_negative(name: str, values: ArrayLike, *, nan: bool = False) -> np.ndarray:
    """Return one finite number from 0 a row as float64 (n,); with `nan` a number may be NaN, too.

    Raises:
        ValueError: another rank or dtype, infinity, NaN that is not allowed, a number below 0 (the first one's row is
            named).
    """
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "fiu"):
        raise ValueError(f"{name} must be one real number a row, got shape {array.shape} of {array.dtype}")
    wide = array.astype(np.float64)
    good = (wide >= 0) & (wide < np.inf)
    bad = np.flatnonzero(~(good | np.isnan(wide)) if nan else ~good)
    if bad.size:
        raise ValueError(f"{name} must be finite and not negative, got {array[bad[0]]} at row {bad[0]}")
    return wide


def labels(name: str, values: Sequence[Hashable] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted unique labels, and for each of n labels its position among them, int64 (n,).

    Raises:
        ValueError: another rank, a label that is NaN, labels that do not sort.
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must have rank 1, got shape {array.shape}")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ValueError(f"{name} must be labels, got NaN at position {np.flatnonzero(np.isnan(array))[0]}")
    try:
        unique, positions = np.unique(array, return_inverse=True)
    except TypeError as error:
        raise ValueError(f"{name} must be labels that sort, got {array.tolist()}") from error
    return unique, positions


def whole_number(name: str, value: object, *, least: int = 0) -> int:
    """Return `value` as an int.

    Raises:
        ValueError: not a whole number (a bool or a float is none), or below `least`.
    """
    if not isinstance(value, SupportsIndex) or isinstance(value, (bool, np.bool_, np.ndarray)):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def budget(value: object, rows: int) -> int:
    """Return how many rows a budget buys: the budget, or all `rows` when it is larger.

    Raises:
        ValueError: not a whole number, or negative.
    """
    return min(whole_number("budget", value), rows)


def list_rows(column: pa.ChunkedArray) -> np.ndarray:
    """A column of n fixed-size lists of d numbers as an array (n, d).

    A column of one chunk, as a file that was written whole has, is not copied: of a memory-mapped file the array is a
    read-only view of its pages.
    """
    # `combine_chunks` would copy a single chunk too.
    values = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    found: np.ndarray = values.flatten().to_numpy(zero_copy_only=False)
    return found.reshape(len(column), values.type.list_size)


def row_blocks(rows: int, row_bytes: int, *, block_bytes: int = 2**25) -> Iterator[slice]:
    """Split rows into consecutive slices whose working copy stays near a number of bytes.

    Args:
        rows: number of rows (or of columns, for a walk along the other axis).
        row_bytes: bytes that one of them takes in the working copy.
        block_bytes: bytes that a block may take; a single row may take more.

    Yields:
        Slices of nearly equal length that cover 0 to `rows` in order; none when there are no rows.
    """
    most = max(1, block_bytes // max(1, row_bytes))
    blocks = -(-rows // most)
    for block in range(blocks):
        yield slice(rows * block // blocks, rows * (block + 1) // blocks)
