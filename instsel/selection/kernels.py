"""Similarities of rows: given, computed when needed, or held in memory."""

import math
import warnings
from typing import Protocol

import numpy as np

from instsel import arrays
from instsel.arrays import finite_matrix, largest_entry, row_blocks, unit_or_zero_rows

METRICS = ("cosine", "precomputed")

TIE = 1e-12
"""Gains that are this near, relative to the sums they are made of, are equal but for rounding."""

_NAMED_ROWS = 5
_ASYMMETRY = 1e-5


def check_metric(metric: str) -> None:
    """Raise a ValueError for a metric that is neither "cosine" nor "precomputed"."""
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")


def check_lam(lam: float) -> None:
    """Raise a ValueError for a redundancy weight that is negative or not finite."""
    if not (math.isfinite(lam) and lam >= 0):
        raise ValueError(f"lam must be a finite number not below 0, got {lam}")


def lowest_of_largest(gains: np.ndarray, left: np.ndarray, slack: float) -> int:
    """Return the lowest row that is left (bool (n,)) and whose gain is within `slack` of the largest among these."""
    largest = gains.max(where=left, initial=-np.inf)
    return int(np.argmax(left & (gains >= largest - slack)))


def cosine_units(x: np.ndarray) -> np.ndarray:
    """Return float64 (n, d) unit rows whose products are cosines; a warning names and counts zero rows.

    Raises:
        ValueError: as `finite_matrix`.
    """
    rows = finite_matrix("x", x)
    units = unit_or_zero_rows(rows)
    warn_of_zeros("rows of x", np.flatnonzero(~units.any(axis=1)))
    return units


def warn_of_zeros(what: str, zeros: np.ndarray, *, frames: int = 2) -> None:
    """Warn which rows (or labels) have no direction, so that their cosine with everything counts as 0.

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
    array = arrays.matrix("x", values)
    if array.shape[0] != array.shape[1]:
        raise ValueError(f"x must be a square matrix of similarities, got shape {array.shape}")
    tolerance = _ASYMMETRY * largest_entry("x", array)
    for block in row_blocks(len(array), len(array) * np.dtype(np.float64).itemsize):
        right, below = array[block, block.start :], array[block.start :, block].T
        bad = np.abs(right.astype(np.float64) - below) > tolerance
        if bad.any():
            row, column = np.argwhere(bad)[0]
            value, mirrored = right[row, column], below[row, column]
            row, column = row + block.start, column + block.start
            raise ValueError(
                f"x must be symmetric, got {value} at ({row}, {column}) and {mirrored} at ({column}, {row})"
            )
    return array


_TILE = 1024
_WORK_BYTES = 2**20
# Added to a number of [-1, 1] and taken off again, it leaves a multiple of 2^-24.
_ROUNDER = 1.5 * 2.0**28


class Kernel(Protocol):
    """What facility location needs to know of a pool."""

    rows: int

    def gains(self, rows: np.ndarray, best: np.ndarray) -> np.ndarray:
        """Return float64 (rows,): sum_i max(0, s_vi - best_i) of each row v, whatever the others in the batch are."""

    def row(self, row: int) -> np.ndarray:
        """Return (n,), the similarities of one row."""


class ComputedCosines:
    """Cosines that are computed whenever they are needed."""

    def __init__(self, units: np.ndarray) -> None:
        self.units = units
        self.rows = len(units)

    def first_gains(self) -> np.ndarray:
        """Return the gains float64 (n,) of all rows before the first pick.

        Half the products are enough: a tile gives the sums of its rows and of its columns.
        """
        totals = np.zeros(self.rows)
        for top in range(0, self.rows, _TILE):
            for left in range(top, self.rows, _TILE):
                rows, columns = slice(top, top + _TILE), slice(left, left + _TILE)
                tile = _rounded(self.units[rows] @ self.units[columns].T)
                self._keep(rows, columns, tile)
                np.maximum(tile, 0, out=tile)
                totals[rows] += tile.sum(axis=1)
                if left > top:
                    totals[columns] += tile.sum(axis=0)
        return totals

    def _keep(self, rows: slice, columns: slice, tile: np.ndarray) -> None:
        """Do nothing: these cosines are not held."""

    def gains(self, rows: np.ndarray, best: np.ndarray) -> np.ndarray:
        """See `Kernel`."""
        totals = np.zeros(len(rows))
        for part in row_blocks(len(rows), self.units.shape[1] * self.units.itemsize):
            left = self.units[rows[part]]
            for block in row_blocks(self.rows, len(left) * self.units.itemsize, block_bytes=8 * _WORK_BYTES):
                cosines = _rounded(left @ self.units[block].T)
                totals[part] += np.maximum(cosines, best[block], out=cosines).sum(axis=1)
        return np.asarray(totals - best.sum())

    def losses(self, rows: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return float64 (n,): how far every gain falls as the best similarities (rows,) of some rows rise."""
        totals = np.zeros(self.rows)
        for part in row_blocks(len(rows), self.units.shape[1] * self.units.itemsize):
            left, low, high = self.units[rows[part]], before[part, None], after[part, None]
            for block in row_blocks(self.rows, len(left) * self.units.itemsize, block_bytes=8 * _WORK_BYTES):
                cosines = _rounded(left @ self.units[block].T)
                totals[block] += np.clip(cosines, low, high, out=cosines).sum(axis=0)
        return np.asarray(totals - before.sum())

    def row(self, row: int) -> np.ndarray:
        """See `Kernel`."""
        return _rounded(self.units @ self.units[row])


class HeldCosines(ComputedCosines):
    """Cosines of all pairs, computed once and held as float32, in which multiples of 2^-24 in [-1, 1] are exact."""

    def __init__(self, units: np.ndarray) -> None:
        super().__init__(units)
        self._kernel = np.empty((self.rows, self.rows), dtype=np.float32)
        self._first_gains = super().first_gains()

    @staticmethod
    def size(rows: int) -> int:
        """Return how many bytes so many rows take."""
        return rows * rows * np.dtype(np.float32).itemsize

    def first_gains(self) -> np.ndarray:
        """Return what was summed up while the cosines were computed."""
        return self._first_gains.copy()

    def _keep(self, rows: slice, columns: slice, tile: np.ndarray) -> None:
        self._kernel[rows, columns] = tile
        self._kernel[columns, rows] = tile.T

    def gains(self, rows: np.ndarray, best: np.ndarray) -> np.ndarray:
        """See `Kernel`."""
        totals = np.empty(len(rows))
        narrow = best.astype(np.float32)
        for part in row_blocks(len(rows), self.rows * self._kernel.itemsize, block_bytes=_WORK_BYTES):
            cosines = self._kernel[rows[part]]
            totals[part] = np.maximum(cosines, narrow, out=cosines).sum(axis=1, dtype=np.float64)
        return np.asarray(totals - best.sum())

    def losses(self, rows: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """See `ComputedCosines`."""
        totals = np.zeros(self.rows)
        low, high = before.astype(np.float32)[:, None], after.astype(np.float32)[:, None]
        for part in row_blocks(len(rows), self.rows * self._kernel.itemsize, block_bytes=_WORK_BYTES):
            cosines = self._kernel[rows[part]]
            totals += np.clip(cosines, low[part], high[part], out=cosines).sum(axis=0, dtype=np.float64)
        return np.asarray(totals - before.sum())

    def row(self, row: int) -> np.ndarray:
        """See `Kernel`."""
        similarities: np.ndarray = self._kernel[row]
        return similarities


class GivenSimilarities:
    """A matrix as it was given. A row is summed alone, in one go: its gain is the same in every batch."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix
        self.rows = len(matrix)

    def gains(self, rows: np.ndarray, best: np.ndarray) -> np.ndarray:
        """See `Kernel`."""
        totals = np.empty(len(rows))
        for part in row_blocks(len(rows), best.nbytes, block_bytes=_WORK_BYTES):
            beyond = self.matrix[rows[part]].astype(np.float64)
            beyond -= best
            totals[part] = np.maximum(beyond, 0, out=beyond).sum(axis=1)
        return totals

    def row(self, row: int) -> np.ndarray:
        """See `Kernel`."""
        return np.asarray(self.matrix[row].astype(np.float64))


def _rounded(cosines: np.ndarray) -> np.ndarray:
    cosines += _ROUNDER
    cosines -= _ROUNDER
    return cosines
