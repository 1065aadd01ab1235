"""What the submodular functions are given: embeddings, compared by their cosines, or a matrix of similarities."""

import math
import warnings

import numpy as np

from instsel import checks
from instsel.blocks import row_blocks

METRICS = ("cosine", "precomputed")

TIE = 1e-12
"""Gains that are this near, relative to the sums they are made of, are equal but for rounding."""

_NAMED_ROWS = 5
_ASYMMETRY = 1e-5


def check_metric(metric: str) -> None:
    """Refuse what is neither "cosine" nor "precomputed" with a ValueError."""
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")


def check_lam(lam: float) -> None:
    """Refuse a redundancy weight that is negative or not finite with a ValueError."""
    if not (math.isfinite(lam) and lam >= 0):
        raise ValueError(f"lam must be a finite number not below 0, got {lam}")


def lowest_of_largest(gains: np.ndarray, left: np.ndarray, slack: float) -> int:
    """Return the lowest row that is left (bool (n,)) and whose gain is within `slack` of the largest among these."""
    largest = gains.max(where=left, initial=-np.inf)
    return int(np.argmax(left & (gains >= largest - slack)))


def cosine_units(x: np.ndarray) -> np.ndarray:
    """Return float64 (n, d) unit rows whose products are cosines; a warning names and counts zero rows.

    Raises:
        ValueError: as `embedding_rows`.
    """
    rows = embedding_rows("x", x)
    units = unit_rows(rows)
    warn_of_zeros("rows of x", np.flatnonzero(~units.any(axis=1)))
    return units


def embedding_rows(name: str, values: np.ndarray) -> np.ndarray:
    """Return embeddings (n, d) of a real dtype, without a copy of them.

    Raises:
        ValueError: wrong rank or dtype, no columns, or NaN or infinity (the first one's row and column are named).
    """
    array = checks.matrix(name, values)
    if array.shape[1] == 0:
        raise ValueError(f"{name} must have at least one column, got shape {array.shape}")
    _require_finite(name, array)
    return array


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Return float64 (n, d): every row at length 1, whatever its scale; rows of zeros stay zero."""
    units = np.empty(rows.shape)
    for block in row_blocks(len(rows), rows.shape[1] * units.itemsize):
        part = rows[block].astype(np.float64)
        # By the largest entry first: the square of a very large or very small one is no float64.
        largest = np.maximum(part.max(axis=1), -part.min(axis=1))
        part /= np.where(largest > 0, largest, 1)[:, None]
        lengths = np.sqrt(np.einsum("ij,ij->i", part, part))
        units[block] = part / np.where(largest > 0, lengths, 1)[:, None]
    return units


def warn_of_zeros(what: str, zeros: np.ndarray, *, frames: int = 2) -> None:
    """Say which rows (or labels) have no direction, so that their cosine with everything counts as 0.

    Whoever called the selector is so many `frames` up from the function that found them.
    """
    if zeros.size:
        first = ", ".join(str(zero) for zero in zeros[:_NAMED_ROWS].tolist())
        more = ", ..." if zeros.size > _NAMED_ROWS else ""
        warnings.warn(f"{zeros.size} {what} are zero and similar to nothing: {first}{more}", stacklevel=frames + 2)


def similarity_matrix(values: np.ndarray) -> np.ndarray:
    """Return a similarity matrix (n, n) of a real dtype, without a copy of it; it is read in blocks.

    Raises:
        ValueError: not square, NaN or infinity, or not symmetric to 1e-5 of its largest entry (a pair is named).
    """
    array = checks.matrix("x", values)
    if array.shape[0] != array.shape[1]:
        raise ValueError(f"x must be a square matrix of similarities, got shape {array.shape}")
    tolerance = _ASYMMETRY * _require_finite("x", array)
    for block in row_blocks(len(array), len(array) * np.dtype(np.float64).itemsize):
        right, below = array[block, block.start :], array[block.start :, block].T
        bad = np.abs(right.astype(np.float64) - below) > tolerance
        if bad.any():
            row, column = np.argwhere(bad)[0]
            one, other = right[row, column], below[row, column]
            row, column = row + block.start, column + block.start
            raise ValueError(f"x must be symmetric, got {one} at ({row}, {column}) and {other} at ({column}, {row})")
    return array


def _require_finite(name: str, array: np.ndarray) -> float:
    """Return the largest absolute value."""
    largest = 0.0
    for block in row_blocks(array.shape[0], array.shape[1] * np.dtype(np.float64).itemsize):
        part = array[block]
        bad = ~np.isfinite(part)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"{name} must be finite, got {part[row, column]} at row {block.start + row}, column {column}"
            )
        largest = max(largest, float(part.max()), -float(part.min()))
    return largest
