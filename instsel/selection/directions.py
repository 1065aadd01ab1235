"""A pool by the directions of its rows: products in float32 for all rows, decisions in float64 for the few that matter.

A float32 product of equal rows need not be equal: the last digits depend on where in memory a row lies. So a product
only says which rows are within `margin` of a decision, and those rows are read again and decided in float64.
"""

import warnings

import numpy as np

from instsel import checks
from instsel.attribution import unit_rows
from instsel.blocks import row_blocks

TOLERANCE = 1e-12  # cosines closer than this are equal
_FLOAT64_BYTES = np.dtype(np.float64).itemsize


class DirectionPool:
    """Rows (n, d) of any real dtype, L2-normalised; zero rows are left out. A place is a number among the rows kept.

    Attributes:
        rows: int64 (kept,), the row of each place.
        margin: bound on the difference between an entry of `products` and the cosine.
    """

    def __init__(self, features: np.ndarray, *, name: str, memory_bytes: int) -> None:
        """Check the rows and, if their float32 copy fits in `memory_bytes`, normalise them once and for all.

        Args:
            features: (n, d); may be memory-mapped.
            name: what the array is, for messages.
            memory_bytes: a larger pool is read and normalised anew, in blocks, at every product.

        Raises:
            ValueError: wrong rank or dtype, no columns, NaN or infinity.
        """
        self._features = checks.matrix(name, features)
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

    def units(self, places: np.ndarray) -> np.ndarray:
        """Return float64 (p, d), the rows at these places, of length 1."""
        wide = self._features[self.rows[places]].astype(np.float64)
        wide /= np.abs(wide).max(axis=1, keepdims=True)
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
        return wide

    def cosines(self, places: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Return float64 (p, q): inner products of the unit rows at p places with directions float64 (q, d)."""
        result = np.empty((len(places), len(directions)))
        for block in row_blocks(len(places), directions.shape[1] * _FLOAT64_BYTES):
            result[block] = self.units(places[block]) @ directions.T
        return result

    def least_cosine(self, places: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return float64 (p,): the smallest cosine of each row at `places` with any row at `others`."""
        least = np.full(len(places), np.inf)
        for block in row_blocks(len(others), self._features.shape[1] * _FLOAT64_BYTES):
            np.minimum(least, self.cosines(places, self.units(others[block])).min(axis=1), out=least)
        return least

    def top(
        self, products: np.ndarray, direction: np.ndarray, allowed: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the `count` allowed places most similar to a direction, all of them if there are fewer.

        Args:
            products: what `products` gave for the direction.
            direction: float64 (d,), of length 1.
            allowed: bool (kept,).
            count: places wanted.

        Returns:
            Places int64 (count,) by falling cosine, equal ones by place; their cosines float64 (count,).
        """
        places = np.flatnonzero(allowed)
        if 0 < count < len(places):
            least = np.partition(products[places], len(places) - count)[len(places) - count]
            places = places[products[places] >= least - 2 * self.margin]
        exact = self.cosines(places, direction[None])[:, 0]
        order = falling_order(exact)[:count]
        return places[order], exact[order]


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
