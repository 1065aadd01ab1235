"""Sharded arrays of a study as a single array: in memory, or memory-mapped if it is large."""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from instsel.arrays import MappedPages
from instsel.io.store import space_errors

# A larger matrix is written to a temporary file and memory-mapped.
MAPPED_BYTES = 2**30


@dataclass(frozen=True)
class Matrix:
    """Scores of pool rows, a column for each validation row.

    Attributes:
        ids: of the n pool rows.
        values: (n, m), read-only.
        columns: table with m rows: id, target and subtask of each column.
    """

    ids: list[str]
    values: np.ndarray
    columns: pa.Table


def stack(blocks: Iterable[np.ndarray], rows: int, width: int, dtype: type[np.generic] = np.float32) -> np.ndarray:
    """Stack blocks of rows to a matrix.

    Args:
        blocks: arrays (rows of the block, width), in order.
        rows: total number of rows.
        width: number of columns.
        dtype: of the result.

    Returns:
        (rows, width), read-only; above `MAPPED_BYTES` a memory-mapped temporary file that is deleted with the array.
    """
    shape = (rows, width)
    stacked: np.ndarray
    if rows * width * np.dtype(dtype).itemsize > MAPPED_BYTES:
        # The file has no name and exists as long as the map. Its space is allocated now, when a full disk is an error;
        # later it would kill the process.
        with space_errors(tempfile.gettempdir()), tempfile.TemporaryFile(prefix="instsel-") as stream:
            os.posix_fallocate(stream.fileno(), 0, rows * width * np.dtype(dtype).itemsize)
            stacked = np.memmap(stream, dtype=dtype, mode="r+", shape=shape)
    else:
        stacked = np.empty(shape, dtype=dtype)
    start = 0
    pages = MappedPages(stacked)
    for block in blocks:
        stacked[start : start + len(block)] = block
        start += len(block)
        pages.count(block.nbytes)
    pages.release()
    stacked.setflags(write=False)
    return stacked
