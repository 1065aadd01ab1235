"""Near-copies in a pool: candidates by MinHash signatures and bands, and which row stays.

Nothing here compares every row with every other: rows that have a band of their signatures in common are candidates,
and candidates are compared word by word.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import rensa
import xxhash
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from instsel.data.row_changes import MARK, TEMPLATE_WORDS, RowWords, near_copy
from instsel.data.words import MULTIPLIER, Hashes, empty, ngrams

# Of two rows that have 60 % of their shingles in common, bands find 99 %; of two that have 15 %, 2 %.
BANDS, BAND_ROWS = 32, 4
SEED = 1
SIGNATURE_VERSION = int(rensa.RMinHash.ALGORITHM_VERSION)
"""Signatures of two versions are not those of one text."""

# A text that so many different rows of the sample share is a form that they are written in.
TEMPLATE_ROWS = 10
TEMPLATE_SAMPLE = 100_000
# A row's form is known by its beginning.
SAMPLED_NGRAMS = 1_000
# In a bucket of more rows, each is a candidate with so many before it and with the first.
NEIGHBOURS = 8

Pairs = NDArray[np.int64]
Rows = NDArray[np.int64]


class NearCopy(NamedTuple):
    """A row of the pool that is nearly the same as an earlier one, which stays: their numbers, and their similarity."""

    row: int
    kept: int
    similarity: float


def row_key(row: RowWords) -> int:
    """Hash all words of a row: rows that differ in case, punctuation and white space have one key; 0 without words."""
    return xxhash.xxh3_64_intdigest(row.hashes.data) if (row.kinds != MARK).any() else 0


def is_sampled(ids: Hashes, rows: int) -> NDArray[np.bool_]:
    """Return a mask of the rows of a pool that template n-grams are counted in, by their ids: all of a small one."""
    if rows <= TEMPLATE_SAMPLE:
        return np.ones(len(ids), dtype=bool)
    sampled: NDArray[np.bool_] = ids < np.uint64((TEMPLATE_SAMPLE << 64) // rows)
    return sampled


def sampled_ngrams(row: RowWords) -> Hashes:
    """Return the distinct n-grams of the beginning of a row, among which template n-grams are looked for."""
    return np.unique(ngrams(row.hashes[: SAMPLED_NGRAMS + TEMPLATE_WORDS - 1], TEMPLATE_WORDS))


def template_ngrams(keys: Hashes, of_rows: Sequence[Hashes]) -> Hashes:
    """Return the n-grams, sorted, that many different rows have.

    Args:
        keys: of the rows, see `row_key`; rows with one key count once.
        of_rows: distinct n-grams of each row.
    """
    distinct = np.unique(keys, return_index=True)[1]
    hashes, frequency = np.unique(np.concatenate([empty(), *(of_rows[row] for row in distinct)]), return_counts=True)
    return hashes[frequency >= TEMPLATE_ROWS]


def band_keys(shingles: Sequence[Hashes]) -> Hashes:
    """Return the hash of each band of the MinHash signature of each row.

    Args:
        shingles: distinct shingles of each row.

    Returns:
        uint64 (rows, BANDS); 0 for rows without shingles.
    """
    lengths = np.array([len(each) for each in shingles], dtype=np.uint64)
    keys = np.zeros((len(shingles), BANDS), dtype=np.uint64)
    if not lengths.any():
        return keys
    ends = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(lengths)])
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(shingles), ends, BANDS * BAND_ROWS, SEED
    )
    signatures = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(shingles), BANDS, BAND_ROWS)
    # A hash of each band: any odd multipliers do, as what they multiply is random.
    powers = np.cumprod(np.full(BAND_ROWS, MULTIPLIER, dtype=np.uint64))
    keys[:] = (signatures * powers).sum(axis=2, dtype=np.uint64)
    return keys * (lengths > 0)[:, None]


def candidate_pairs(keys: Hashes, ties: Hashes, rows: Rows) -> Pairs:
    """Return pairs of rows that are in one bucket.

    All pairs of a small bucket are candidates. In a larger one each row is a candidate with its neighbours, in the
    order of another band, and with the first row.

    Args:
        keys: bucket of each row, uint64 (n,); 0 is none.
        ties: order within a bucket, uint64 (n,): that of another band, which near-copies mostly share too.
        rows: numbers of the rows, int64 (n,).

    Returns:
        Distinct pairs, the smaller number first, sorted: int64 (pairs, 2).
    """
    used = np.flatnonzero(keys)
    order = used[np.lexsort((rows[used], ties[used], keys[used]))]
    keys, rows = keys[order], rows[order]
    if not len(keys):
        return np.empty((0, 2), dtype=np.int64)
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    sizes = np.diff(np.append(starts, len(keys)))
    first = np.repeat(np.minimum.reduceat(rows, starts), sizes)
    pairs = [np.stack([first, rows], axis=1)[first != rows]]
    for step in range(1, NEIGHBOURS + 1):
        together = keys[step:] == keys[:-step]
        pairs.append(np.stack([rows[:-step][together], rows[step:][together]], axis=1))
    return distinct_pairs(np.sort(np.concatenate(pairs), axis=1))


def distinct_pairs(pairs: Pairs) -> Pairs:
    """Return pairs without repetition, sorted."""
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs = pairs[order]
    is_new = np.concatenate([np.ones(min(1, len(pairs)), dtype=bool), (pairs[1:] != pairs[:-1]).any(axis=1)])
    distinct: Pairs = pairs[is_new]
    return distinct


def merge_labels(labels: Rows, pairs: Pairs) -> Rows:
    """Return labels of rows after those of each pair became one: the smallest row that is connected to a row.

    Args:
        labels: of the rows, int64 (rows,): the smallest row that each is connected to so far.
        pairs: of rows.
    """
    count = len(labels)
    if not len(pairs):
        return labels
    edges = labels[pairs]
    graph = coo_array((np.ones(len(edges), dtype=np.int8), (edges[:, 0], edges[:, 1])), shape=(count, count))
    components = connected_components(graph, directed=False)[1][labels]
    smallest = np.full(components.max() + 1, count, dtype=np.int64)
    np.minimum.at(smallest, components, np.arange(count))
    merged: Rows = smallest[components]
    return merged


def near_copies(pairs: Pairs, row_of: Callable[[int], RowWords], threshold: float) -> Iterator[NearCopy]:
    """Compare candidates, and yield the rows that are near-copies of an earlier row that stays.

    Rows are looked at in their order. A row that is nearly the same as a candidate which is itself a near-copy is
    compared with the row that stays in its place, so that every row is a near-copy of the row that is named.

    Args:
        pairs: candidates, the earlier row first.
        row_of: returns the words of a row.
        threshold: least Jaccard similarity.
    """
    earlier: Mapping[int, list[int]] = defaultdict(list)
    for first, second in pairs.tolist():
        earlier[second].append(first)
    stays: dict[int, int] = {}
    for row in sorted(earlier):
        for kept in sorted({stays.get(first, first) for first in earlier[row]}):
            similarity = near_copy(row_of(kept), row_of(row), threshold)
            if similarity is not None:
                stays[row] = kept
                yield NearCopy(row, kept, similarity)
                break
