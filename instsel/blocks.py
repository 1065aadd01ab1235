"""Ways to walk a matrix that is larger than the memory one wants to spend on it."""

from collections.abc import Iterator


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
