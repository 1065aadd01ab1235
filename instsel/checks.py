"""Argument checks that the mathematics shares: each raises ValueError with the value and what was expected."""

import operator
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from instsel.blocks import row_blocks


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
