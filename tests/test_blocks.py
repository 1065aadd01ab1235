import pytest

from instsel.blocks import row_blocks


@pytest.mark.parametrize("rows", [0, 1, 7, 100])
@pytest.mark.parametrize("row_bytes", [0, 1, 30, 101])
def test_blocks_cover_the_rows_in_order_and_keep_to_the_bytes(rows: int, row_bytes: int) -> None:
    blocks = list(row_blocks(rows, row_bytes, block_bytes=100))
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(rows))
    assert all((block.stop - block.start) * row_bytes <= max(100, row_bytes) for block in blocks)
