"""Ways to walk a matrix that is larger than the memory one wants to spend on it."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa


def list_rows(column: pa.ChunkedArray) -> np.ndarray:
    """A column of n fixed-size lists of d numbers as an array (n, d).

    A column of one chunk, as a file that was written whole has, is not copied: of a memory-mapped file the array is a
    read-only view of its pages.
    """
    # `combine_chunks` would copy a single chunk too.
    values = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    found: np.ndarray = values.flatten().to_numpy(zero_copy_only=False)
    return found.reshape(len(column), values.type.list_size)


def row_blocks(rows: int, row_bytes: int, *, block_bytes: int = 2**25) -> Iterator[slice]:
    """Split rows into consecutive slices whose working copy stays near a number of bytes.

    Args:
        rows: number of rows (or of columns, for a walk along the other axis).
        row_bytes: bytes that one of them takes in the working copy.
        block_bytes: bytes that a block may take; a single row may take more.

    Yields:
        Slices of nearly equal length that cover 0 to `rows` in order; none when there are no rows.
    """
    most = max(1, block_bytes // max(1, row_bytes))
    blocks = -(-rows // most)
    for block in range(blocks):
        yield slice(rows * block // blocks, rows * (block + 1) // blocks)
