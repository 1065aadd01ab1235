import numpy as np
import pyarrow as pa
import pytest

from instsel.arrays import list_rows, row_blocks
from instsel.io.store import Folder


@pytest.mark.parametrize("rows", [0, 1, 7, 100])
@pytest.mark.parametrize("row_bytes", [0, 1, 30, 101])
def test_blocks_cover_the_rows_in_order_and_keep_to_the_bytes(rows: int, row_bytes: int) -> None:
    blocks = list(row_blocks(rows, row_bytes, block_bytes=100))
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(rows))
    assert all((block.stop - block.start) * row_bytes <= max(100, row_bytes) for block in blocks)


def _table(rows):
    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    return pa.table({"id": [str(number) for number in range(len(rows))], "values": values})


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
def test_lists_of_a_file_are_rows_that_take_no_memory(dtype, tmp_path):
    rows = np.arange(40_000).astype(dtype).reshape(4, 10_000)
    folder = Folder.at(tmp_path)
    folder.write_table("rows.arrow", _table(rows))
    before = pa.total_allocated_bytes()
    found = list_rows(folder.read_table("rows.arrow")["values"])
    assert pa.total_allocated_bytes() == before
    assert not found.flags.owndata
    assert not found.flags.writeable
    np.testing.assert_array_equal(found, rows)


def test_lists_in_parts_are_put_together():
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    table = _table(rows)
    np.testing.assert_array_equal(list_rows(pa.concat_tables([table, table])["values"]), np.concatenate([rows, rows]))
    np.testing.assert_array_equal(list_rows(table.slice(1, 2)["values"]), rows[1:3])
    assert list_rows(table.slice(0, 0)["values"]).shape == (0, 3)
