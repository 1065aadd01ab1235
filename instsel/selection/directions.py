"""Unit rows of a pool and their cosines with a direction: fast in float32, decided in float64 where it is close."""

import warnings

import numpy as np

from instsel import arrays
from instsel.arrays import row_blocks, unit_rows

TOLERANCE = 1e-12
"""Cosines closer than this are equal."""

_FLOAT64_BYTES = np.dtype(np.float64).itemsize


class DirectionPool:
    """Rows (n, d) of any real dtype, L2-normalised; zero rows are left out. A position counts among the rows kept.

    Attributes:
        rows: int64 (kept,), the row of each position.
        margin: bound on the difference between an entry of `products` and the cosine.
    """

    def __init__(self, features: np.ndarray, *, name: str, memory_bytes: int) -> None:
        """Check the rows and, if their float32 copy fits in `memory_bytes`, normalise them once.

        Args:
            features: (n, d); may be memory-mapped.
            name: what the array is, for messages.
            memory_bytes: a larger pool is read and normalised again, in blocks, at every product.

        Raises:
            ValueError: wrong rank or dtype, no columns, NaN or infinity.
        """
        self._features = arrays.matrix(name, features)
        self.rows = nonzero_rows(self._features, name)
        d = self._features.shape[1]
        # Rounding errors of a sum of d terms grow like sqrt(d); 8 is ample for sums in several lanes.
        self.margin = float(8 * np.sqrt(d) * np.finfo(np.float32).eps)
        self._blocks = list(row_blocks(len(self.rows), d * np.dtype(np.float32).itemsize))
        self._units: np.ndarray | None = None
        if len(self.rows) * d * np.dtype(np.float32).itemsize <= memory_bytes:
            self._units = np.empty((len(self.rows), d), dtype=np.float32)
            for block in self._blocks:
                self._units[block] = unit_rows(self._features[self.rows[block]])

    def __len__(self) -> int:
        """Return the number of rows kept."""
        return len(self.rows)

    def products(self, direction: np.ndarray) -> np.ndarray:
        """Return float32 (kept,): the cosine of every row with a unit direction float64 (d,), to within `margin`."""
        short = direction.astype(np.float32)
        if self._units is not None:
            return np.asarray(self._units @ short)
        parts = [unit_rows(self._features[self.rows[block]]) @ short for block in self._blocks]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)

    def units(self, positions: np.ndarray) -> np.ndarray:
        """Return float64 (p, d), the rows at these positions, of length 1."""
        wide = self._features[self.rows[positions]].astype(np.float64)
        wide /= np.abs(wide).max(axis=1, keepdims=True)
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
        return np.asarray(wide)

    def cosines(self, positions: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Return float64 (p, q): inner products of the unit rows at p positions with directions float64 (q, d)."""
        result = np.empty((len(positions), len(directions)))
        for block in row_blocks(len(positions), directions.shape[1] * _FLOAT64_BYTES):
            result[block] = self.units(positions[block]) @ directions.T
        return result

    def least_cosine(self, positions: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return float64 (p,): the smallest cosine of each row at `positions` with any row at `others`."""
        least = np.full(len(positions), np.inf)
        for block in row_blocks(len(others), self._features.shape[1] * _FLOAT64_BYTES):
            np.minimum(least, self.cosines(positions, self.units(others[block])).min(axis=1), out=least)
        return least

    def top(
        self, products: np.ndarray, direction: np.ndarray, allowed: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the `count` allowed positions most similar to a direction, all of them if there are fewer.

        Args:
            products: what `products` gave for the direction.
            direction: float64 (d,), of length 1.
            allowed: bool (kept,).
            count: positions wanted.

        Returns:
            Positions int64 (count,) by falling cosine, equal ones by position; their cosines float64 (count,).
        """
        positions = np.flatnonzero(allowed)
        if 0 < count < len(positions):
            least = np.partition(products[positions], len(positions) - count)[len(positions) - count]
            positions = positions[products[positions] >= least - 2 * self.margin]
        exact = self.cosines(positions, direction[None])[:, 0]
        order = falling_order(exact)[:count]
        return positions[order], exact[order]


def falling_order(values: np.ndarray) -> np.ndarray:
    """Sort by falling value; a value within `TOLERANCE` of the next larger one equals it, and equal ones keep order."""
    order = np.argsort(-values, kind="stable")
    ranks = np.cumsum(-np.diff(values[order], prepend=values[order[:1]]) > TOLERANCE)
    return order[np.lexsort((order, ranks))]


def nonzero_rows(features: np.ndarray, name: str) -> np.ndarray:
    """Find the rows that have a direction and warn of the others.

    Args:
        features: (n, d), read in blocks.
        name: what the array is, for messages.

    Returns:
        int64 (kept,), the rows that are not all zeros.

    Raises:
        ValueError: no columns, NaN or infinity.
    """
    if features.shape[1] == 0:
        raise ValueError(f"{name} must have at least one column, got shape {features.shape}")
    kept = np.empty(len(features), dtype=bool)
    for block in row_blocks(len(features), features.shape[1] * features.dtype.itemsize):
        part = features[block]
        least, most = part.min(axis=1), part.max(axis=1)
        bad = np.flatnonzero(~(np.isfinite(least) & np.isfinite(most)))
        if bad.size:
            raise ValueError(f"{name} must be finite, got NaN or infinity at row {block.start + bad[0]}")
        kept[block] = (least != 0) | (most != 0)
    zero = np.flatnonzero(~kept)
    if zero.size:
        first = ", ".join(map(str, zero[:5].tolist())) + (", ..." if zero.size > 5 else "")
        warnings.warn(f"{zero.size} rows of {name} are zero and are left out: {first}", stacklevel=3)
    return np.flatnonzero(kept)
