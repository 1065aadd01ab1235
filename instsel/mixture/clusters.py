"""Categories where the rows name none: clusters of prompt embeddings."""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from instsel import arrays
from instsel.arrays import row_blocks, unit_rows

FIT_ROWS = 50_000
STARTS = 4


def cluster(embeddings: np.ndarray, count: int, *, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Divide rows into clusters by the directions of their embeddings: k-means on rows of length 1.

    Of more than 50,000 rows the centroids are those of 50,000, drawn uniformly. Every row then goes to the centroid of
    the highest cosine, so that `nearest` gives rows of the pool the labels they have here. The same rows get the same
    labels, whatever the number of threads.

    Args:
        embeddings: (n, e), any real dtype; read twice in blocks, so that it may be memory-mapped.
        count: clusters wanted. Fewer are made, with a warning, where there are fewer different embeddings.
        seed: of the draw and of the starts.

    Returns:
        labels: int64 (n,), cluster of each row; 0 is the largest, of equal ones that which has the lowest row.
        centroids: float32 (k, e), of length 1; row i is the middle of cluster i. None is without rows.

    Raises:
        ValueError: wrong rank or dtype, no rows, a row that is zero or not finite, a count below 1.
    """
    rows = arrays.matrix("embeddings", embeddings)
    wanted = arrays.whole_number("count", count, least=1)
    if len(rows) == 0:
        raise ValueError("embeddings must have at least one row, got none")
    centroids = _fit(_sample(rows, seed), wanted, seed)
    labels, kept = _by_size(nearest(rows, centroids))
    if len(kept) < wanted:
        warnings.warn(f"{len(kept)} clusters, not {wanted}: there are no more different embeddings", stacklevel=2)
    return labels, centroids[kept]


def nearest(embeddings: np.ndarray, centroids: np.ndarray) -> NDArray[np.int64]:
    """Find the centroid of the highest cosine.

    Args:
        embeddings: (n, e), any real dtype; read in blocks, so that it may be memory-mapped.
        centroids: (k, e), any real dtype, any length.

    Returns:
        int64 (n,); of equal ones the first.

    Raises:
        ValueError: wrong rank, width or dtype, no centroids, a row that is zero or not finite.
    """
    rows, middles = arrays.matrix("embeddings", embeddings), unit_rows(centroids, "centroids").astype(np.float64)
    if len(middles) == 0 or rows.shape[1] != middles.shape[1]:
        raise ValueError(f"centroids have shape {middles.shape}; expected (k, {rows.shape[1]}), as embeddings have")
    labels = np.empty(len(rows), dtype=np.int64)
    for block in row_blocks(len(rows), 16 * sum(middles.shape)):
        units = unit_rows(rows[block], "embeddings", first_row=block.start)
        # Rounded: products of equal rows differ in their last digits by where the rows lie in memory.
        labels[block] = (units.astype(np.float64) @ middles.T).astype(np.float32).argmax(axis=1)
    return labels


def _sample(rows: np.ndarray, seed: int) -> NDArray[np.float32]:
    """Unit rows to fit on; all rows are looked at, so that a bad one is named by its number before the work begins."""
    chosen = np.ones(len(rows), dtype=bool)
    if len(rows) > FIT_ROWS:
        chosen[:] = False
        chosen[np.random.default_rng(seed).choice(len(rows), FIT_ROWS, replace=False, shuffle=False)] = True
    parts = []
    for block in row_blocks(len(rows), 12 * rows.shape[1]):
        parts.append(unit_rows(rows[block], "embeddings", first_row=block.start)[chosen[block]])
    return np.concatenate(parts)


def _fit(units: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Centroids of length 1, float32 (at most count, e)."""
    means = KMeans(min(count, len(units)), n_init=STARTS, random_state=np.random.RandomState(np.random.MT19937(seed)))
    # Threads add up their parts in the order in which they finish, which changes the last digits.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # What it warns of, fewer different rows than clusters, is counted and said by the caller.
        warnings.simplefilter("ignore", ConvergenceWarning)
        centres = means.fit(units).cluster_centers_
    # The mean of opposite rows has no direction; the first row stands in.
    centres[np.abs(centres).max(axis=1) <= np.finfo(np.float32).eps] = units[0]
    return unit_rows(centres, "centroids")


def _by_size(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number clusters by falling size: labels int64 (n,), and the old number of each new one, without empty ones."""
    old, first, new, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    rank = np.empty(len(old), dtype=np.int64)
    rank[order] = np.arange(len(old))
    return rank[new], old[order]
