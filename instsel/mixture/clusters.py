"""Categories for pools without labels: k-means clusters of prompt embeddings."""

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
    """Cluster rows by the direction of their embeddings: k-means on L2-normalised rows.

    With more than 50,000 rows, the centroids are fitted on 50,000 of them, drawn uniformly. Every row is then assigned
    to the centroid with the highest cosine, so that `nearest` gives rows of the pool the same labels. Labels do not
    depend on the number of threads.

    Args:
        embeddings: (n, e), any real dtype; read twice in blocks, so that it may be memory-mapped.
        count: number of clusters. Fewer are returned, with a warning, if there are fewer different embeddings.
        seed: of the sample and of the initial centroids.

    Returns:
        labels: int64 (n,), cluster of each row; 0 is the largest, of equally large ones that with the lowest row.
        centroids: float32 (k, e), of length 1; row i is the centroid of cluster i. No cluster is empty.

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
    """Find the centroid with the highest cosine for every row.

    Args:
        embeddings: (n, e), any real dtype; read in blocks, so that it may be memory-mapped.
        centroids: (k, e), any real dtype, any length.

    Returns:
        Index of the centroid, int64 (n,); ties go to the first.

    Raises:
        ValueError: wrong rank, width or dtype, no centroids, a row that is zero or not finite.
    """
    rows, centres = arrays.matrix("embeddings", embeddings), unit_rows(centroids, "centroids").astype(np.float64)
    if len(centres) == 0 or rows.shape[1] != centres.shape[1]:
        raise ValueError(f"centroids have shape {centres.shape}; expected (k, {rows.shape[1]}), as embeddings have")
    labels = np.empty(len(rows), dtype=np.int64)
    for block in row_blocks(len(rows), 16 * sum(centres.shape)):
        units = unit_rows(rows[block], "embeddings", first_row=block.start)
        # Rounded, as products of equal rows differ in their last digits with the alignment of the rows in memory.
        labels[block] = (units.astype(np.float64) @ centres.T).astype(np.float32).argmax(axis=1)
    return labels


def _sample(rows: np.ndarray, seed: int) -> NDArray[np.float32]:
    """Return unit rows to fit on; all rows are checked, so that a bad row is named before the fit starts."""
    chosen = np.ones(len(rows), dtype=bool)
    if len(rows) > FIT_ROWS:
        chosen[:] = False
        chosen[np.random.default_rng(seed).choice(len(rows), FIT_ROWS, replace=False, shuffle=False)] = True
    parts = [
        unit_rows(rows[block], "embeddings", first_row=block.start)[chosen[block]]
        for block in row_blocks(len(rows), 12 * rows.shape[1])
    ]
    return np.concatenate(parts)


def _fit(units: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Fit centroids of length 1, float32 (at most count, e)."""
    means = KMeans(min(count, len(units)), n_init=STARTS, random_state=np.random.RandomState(np.random.MT19937(seed)))
    # Threads sum their parts in the order in which they finish, which changes the last digits.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # The warning about fewer different rows than clusters is issued by the caller.
        warnings.simplefilter("ignore", ConvergenceWarning)
        centres = means.fit(units).cluster_centers_
    # The mean of opposite rows has no direction; the first row is used instead.
    centres[np.abs(centres).max(axis=1) <= np.finfo(np.float32).eps] = units[0]
    return unit_rows(centres, "centroids")


def _by_size(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Renumber clusters by decreasing size: labels int64 (n,), and the old index of each new cluster."""
    old, first, new, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    rank = np.empty(len(old), dtype=np.int64)
    rank[order] = np.arange(len(old))
    return rank[new], old[order]
