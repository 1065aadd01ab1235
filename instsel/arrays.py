"""Array helpers: argument checks, loops over blocks of rows, unit rows, column moments, largest remainder."""

import mmap
import operator
import sys
from collections.abc import Hashable, Iterator, Sequence
from typing import SupportsIndex, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray


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


def attribution_matrix(values: ArrayLike, *, finite: bool = True) -> np.ndarray:
    """Return a selector's attribution (n, m): real, at least one column, finite. It is read in blocks, not copied.

    Args:
        values: the attribution.
        finite: read it all and check it; False for who calls `check_finite` on every block of a pass of its own.

    Raises:
        ValueError: wrong rank or dtype, no columns, or NaN or infinity (the first one's row and column are named).
    """
    array = matrix("attribution", values)
    if array.shape[1] == 0:
        raise ValueError("attribution must have at least one column (validation example), got none")
    if finite:
        for block, part in stream_rows(array):
            check_finite(part, block.start)
    return array


def check_finite(block: np.ndarray, first_row: int) -> None:
    """Check rows of an attribution, of which the first is row `first_row`.

    Raises:
        ValueError: NaN or infinity (the first one's row and column are named).
    """
    bad = ~np.isfinite(block)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"attribution must be finite, got {block[row, column]} at row {first_row + row}, column {column}"
        )


def finite_matrix(name: str, values: ArrayLike) -> np.ndarray:
    """Return `values` as a finite array (n, d) of a real dtype with at least one column, without copying it.

    Raises:
        ValueError: wrong rank or dtype, no columns, or NaN or infinity (the first one's row and column are named).
    """
    array = matrix(name, values)
    if array.shape[1] == 0:
        raise ValueError(f"{name} must have at least one column, got shape {array.shape}")
    largest_entry(name, array)
    return array


def largest_entry(name: str, array: np.ndarray) -> float:
    """Return the largest absolute value of a matrix (n, d), read in blocks; 0 of an empty one.

    Raises:
        ValueError: NaN or infinity (the first one's row and column are named).
    """
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


def not_negative(name: str, values: ArrayLike, *, nan: bool = False) -> np.ndarray:
    """Return one finite number of at least 0 per row as float64 (n,); with `nan`, NaN is allowed as well.

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


Labels: TypeAlias = Sequence[Hashable] | np.ndarray | pa.DictionaryArray
"""One label a row."""


def labels(name: str, values: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted unique labels, and for each of n labels its position among them, int64 (n,).

    Texts are compared once each, by their codes: as an array of NumPy each would be as wide as the longest.

    Raises:
        ValueError: another rank, a label that is NaN or null, labels that do not sort.
    """
    encoded = _encoded(values)
    if encoded is not None:
        return _of_codes(name, encoded)
    array: np.ndarray = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must have rank 1, got shape {array.shape}")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ValueError(f"{name} must be labels, got NaN at position {np.flatnonzero(np.isnan(array))[0]}")
    try:
        unique, positions = np.unique(array, return_inverse=True)
    except TypeError as error:
        raise ValueError(f"{name} must be labels that sort, got {array.tolist()}") from error
    return unique, positions


def _encoded(values: Labels) -> pa.DictionaryArray | None:
    """Return texts as codes; None of what is no text."""
    if isinstance(values, pa.DictionaryArray):
        return values
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    if not (is_list and len(values) and all(isinstance(value, str) for value in values)):
        return None
    try:
        return pa.array(values, pa.string()).dictionary_encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, which is no UTF-8.
        return None


def _of_codes(name: str, encoded: pa.DictionaryArray) -> tuple[np.ndarray, np.ndarray]:
    if encoded.null_count:
        raise ValueError(f"{name} must be labels, got null")
    codes, known = encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()
    used = np.unique(codes)
    unique = sorted({known[code] for code in used.tolist()})
    position = {label: index for index, label in enumerate(unique)}
    positions = np.zeros(len(known), dtype=np.int64)
    positions[used] = [position[known[code]] for code in used.tolist()]
    return np.array(unique, dtype=object), positions[codes]


def whole_number(name: str, value: object, *, least: int = 0) -> int:
    """Return `value` as an int.

    Raises:
        ValueError: not a whole number (bools and floats are rejected), or below `least`.
    """
    if not isinstance(value, SupportsIndex) or isinstance(value, (bool, np.bool_, np.ndarray)):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    whole = operator.index(value)
    if whole < least:
        raise ValueError(f"{name} must be at least {least}, got {whole}")
    return whole


def budget(value: object, rows: int) -> int:
    """Return the number of rows to choose: the budget, or all `rows` when it is larger.

    Raises:
        ValueError: not a whole number, or negative.
    """
    return min(whole_number("budget", value), rows)


def list_rows(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of n fixed-size lists of d numbers as an array (n, d).

    A column with a single chunk, as in a file written in one go, is not copied: if the file is memory-mapped, the array
    is a read-only view of its pages.
    """
    # `combine_chunks` copies even a single chunk.
    values = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    flat: np.ndarray = values.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), values.type.list_size)


def row_blocks(rows: int, row_bytes: int, *, block_bytes: int = 2**25) -> Iterator[slice]:
    """Split rows into consecutive slices whose working copy stays near a given number of bytes.

    Args:
        rows: number of rows (or of columns, to walk along the other axis).
        row_bytes: bytes that a row takes in the working copy.
        block_bytes: bytes that a block may take; a single row may take more.

    Yields:
        Slices of nearly equal length that cover 0 to `rows` in order; none when there are no rows.
    """
    most = max(1, block_bytes // max(1, row_bytes))
    blocks = -(-rows // most)
    for block in range(blocks):
        yield slice(rows * block // blocks, rows * (block + 1) // blocks)


def stream_rows(array: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Read a matrix (n, m) once, from its first row to its last, and keep no more of a mapped file than it must.

    Yields:
        A slice of the rows, and the view of them, which must not be kept. A float64 copy of it takes 4 MiB, which stays
        near the processor; of a matrix whose columns lie together 128 MiB, so that each is read in long pieces.
    """
    pages = MappedPages(array)
    row_bytes = array.shape[1] * np.dtype(np.float64).itemsize
    for block in row_blocks(len(array), row_bytes, block_bytes=2**22 if array.flags.c_contiguous else 2**27):
        part = array[block]
        yield block, part
        pages.count(part.nbytes)
    pages.release()


class MappedPages:
    """The pages of a file that an array is a map of, given back to the system when so many bytes were used.

    They count as memory of the process until it needs others; without this, whoever goes through a file larger than the
    memory looks as if it needed all of it. An array that is in memory has none.
    """

    def __init__(self, array: np.ndarray, *, most: int = 2**28) -> None:
        """Find the file.

        Args:
            array: may be a view of a map.
            most: bytes to use before pages are given back.
        """
        self._map, self._most, self._used = _map_of(array), most, 0

    def count(self, size: int) -> None:
        """Note that `size` more bytes were used."""
        self._used += size
        if self._used >= self._most:
            self.release()

    def release(self) -> None:
        """Give the pages back; they are read again when they are used again."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)
        self._used = 0

    def read_ahead(self, wanted: bool) -> None:
        """Say whether what follows a page that is read will be wanted, too: not where single rows are read."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_NORMAL if wanted else mmap.MADV_RANDOM)


def _map_of(array: np.ndarray) -> mmap.mmap | None:
    """Return the map of a file that an array is a view of; None if there is none, or one whose changes are not kept."""
    view: object = array
    while isinstance(view, np.ndarray):
        if isinstance(view, np.memmap) and view.mode == "c":
            return None
        view = view.base
    return view if isinstance(view, mmap.mmap) and sys.platform == "linux" else None


def unit_rows(features: np.ndarray, name: str = "features", *, first_row: int = 0) -> np.ndarray:
    """L2-normalise rows, whatever their scale: neither very large nor very small rows overflow or vanish.

    Three other places divide rows by their length, each with numbers of its own. `unit_or_zero_rows` works in float64
    and keeps rows of zeros, which embeddings may have. `gradients.features.normalise` keeps the lengths and rejects
    rows without one instead of raising, and `GradientShards` multiplies stored rows by their lengths again.

    Args:
        features: (rows, d), any real dtype.
        name: what the array is, for error messages.
        first_row: index of the first row, for error messages.

    Returns:
        float32 (rows, d), every row of length 1.

    Raises:
        ValueError: wrong rank or dtype, no columns, a row that is zero or not finite.
    """
    array = matrix(name, features)
    if array.shape[1] == 0:
        raise ValueError(f"{name} must have at least one column, got shape {array.shape}")
    wide = array.astype(np.promote_types(array.dtype, np.float32), copy=False)
    largest = np.maximum(wide.max(axis=1), -wide.min(axis=1))
    bad = np.flatnonzero(~np.isfinite(largest) | (largest == 0))
    if bad.size:
        fault = "all zeros" if largest[bad[0]] == 0 else "NaN or infinity"
        raise ValueError(f"{name}, row {first_row + bad[0]}: expected a finite vector other than zero, got {fault}")
    units: np.ndarray = (wide / largest[:, None]).astype(np.float32, copy=False)
    units /= np.sqrt(np.einsum("ij,ij->i", units, units))[:, None]
    return units


def unit_or_zero_rows(rows: np.ndarray) -> NDArray[np.float64]:
    """L2-normalise finite rows (n, d) in float64, whatever their scale; rows of zeros stay zero.

    In float64, since selectors compare sums of thousands of cosines, where `unit_rows` is for features that are stored
    and multiplied in float32.
    """
    units = np.empty(rows.shape)
    for block in row_blocks(len(rows), rows.shape[1] * units.itemsize):
        part = rows[block].astype(np.float64)
        # By the largest entry first: the square of a very large or very small entry is not representable.
        largest = np.maximum(part.max(axis=1), -part.min(axis=1))
        part /= np.where(largest > 0, largest, 1)[:, None]
        lengths = np.sqrt(np.einsum("ij,ij->i", part, part))
        units[block] = part / np.where(largest > 0, lengths, 1)[:, None]
    return units


def moments(values: np.ndarray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute mean and population standard deviation of every column, in blocks of rows.

    `selection.influence.column_moments` drops constant columns, which get 1 here; its last digits, those of numpy on
    the whole matrix, may differ from those here.

    Args:
        values: (n, m), any real dtype; may be memory-mapped.

    Returns:
        Means and standard deviations, float64 (m,) each. A constant column gets 1, so that it can be divided by.
    """
    rows, columns = values.shape
    blocks = list(row_blocks(rows, columns * np.dtype(np.float64).itemsize))
    mean = sum((values[block].sum(axis=0, dtype=np.float64) for block in blocks), np.zeros(columns)) / rows
    squares = sum((((values[block] - mean) ** 2).sum(axis=0) for block in blocks), np.zeros(columns))
    deviation = np.sqrt(squares / rows)
    return mean, np.where(deviation > 0, deviation, 1.0)


def largest_remainder(weights: NDArray[np.float64], total: int, capacity: NDArray[np.int64]) -> NDArray[np.int64]:
    """Split `total` in proportion to weights by largest remainder, within capacities.

    What a full entry cannot take is split among the others in the same proportion. Three selectors round in other ways:
    `g2is` serves the last of equal remainders first and `smart` gives what is left to the first tasks, both as their
    releases do; `stratified` divides whole numbers exactly, which floats cannot for pools of many millions of rows.

    Args:
        weights: float64 (K,), at least 0, not all 0.
        total: number to split, at least 0.
        capacity: int64 (K,), maximum of each entry.

    Returns:
        int64 (K,), sums to `total`; of equal remainders the first is served first. Entries of weight 0 get something
        only when all others are full.

    Raises:
        ValueError: the capacities sum to less than `total`, or something is negative.
    """
    if total < 0 or capacity.shape != weights.shape or (capacity < 0).any():
        raise ValueError(
            f"total is {total} and capacity {capacity.tolist()}; expected numbers of at least 0, one per weight"
        )
    if capacity.sum() < total:
        raise ValueError(f"there are {capacity.sum()} rows in all, fewer than the {total} wanted; lower the budget")
    counts = np.zeros(len(weights), dtype=np.int64)
    free = capacity > 0
    while (remaining := total - int(counts.sum())) > 0:
        wanted = np.where(free, weights, 0.0)
        if wanted.sum() <= 0:
            wanted = free.astype(np.float64)
        # Rounded, as 0.3 * 10 is slightly below 3 in floats.
        quotas = np.round(remaining * wanted / wanted.sum(), 9)
        granted = np.floor(quotas).astype(np.int64)
        # Once more, as 4/3 - 1 is slightly below 1/3 in floats, and they are equal remainders.
        order = np.argsort(-np.round(quotas - granted, 9), kind="stable")
        granted[order[: remaining - int(granted.sum())]] += 1
        counts += np.minimum(granted, capacity - counts)
        free = counts < capacity
    return counts
