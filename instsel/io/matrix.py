"""Arrays of a study that lie in shards, read as one: in memory, or above a bound as a file that is mapped into it."""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from instsel.io.store import space_errors

# A matrix above this is laid out in a temporary file and mapped, so that it takes disk in place of memory.
MAPPED_BYTES = 2**30


@dataclass(frozen=True)
class Matrix:
    """Rows of the pool by what they were scored against.

    Attributes:
        ids: of the pool rows, n of them.
        values: (n, m), read-only.
        columns: m rows: id, target and subtask of each column.
    """

    ids: list[str]
    values: np.ndarray
    columns: pa.Table


def stack(blocks: Iterable[np.ndarray], rows: int, width: int, dtype: type[np.generic] = np.float32) -> np.ndarray:
    """Put blocks of rows one below the other.

    Args:
        blocks: arrays (rows of the block, width), in order.
        rows: rows of all blocks together.
        width: columns.
        dtype: of the result.

    Returns:
        (rows, width), read-only; above `MAPPED_BYTES` a memory-mapped temporary file that goes with the array.
    """
    shape = (rows, width)
    whole: np.ndarray
    if rows * width * np.dtype(dtype).itemsize > MAPPED_BYTES:
        # The name is gone at once; the file lives as long as the map. Its room is taken now, while the lack of it is an
        # error and not the end of the process.
        with space_errors(tempfile.gettempdir()), tempfile.TemporaryFile(prefix="instsel-") as stream:
            os.posix_fallocate(stream.fileno(), 0, rows * width * np.dtype(dtype).itemsize)
            whole = np.memmap(stream, dtype=dtype, mode="r+", shape=shape)
    else:
        whole = np.empty(shape, dtype=dtype)
    start = 0
    for block in blocks:
        whole[start : start + len(block)] = block
        start += len(block)
    whole.setflags(write=False)
    return whole
