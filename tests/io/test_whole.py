"""Tables that are cut off are not taken for whole ones."""

from pathlib import Path

import pyarrow as pa
import pytest

from instsel.io.store import Folder
from instsel.io.whole import is_whole, whole_names

TABLE = pa.table({"id": [str(number) for number in range(500)]})


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
@pytest.mark.parametrize("left", [0, 3, 12, 0.5, 0.999])
def test_bug_a_table_that_is_cut_off_is_not_whole(tmp_path: Path, ending: str, left: float) -> None:
    folder, name = Folder.at(tmp_path), f"00000-000000{ending}"
    assert not is_whole(folder, name)
    folder.write_table(name, TABLE)
    assert is_whole(folder, name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: left if isinstance(left, int) else int(left * len(content))])
    assert not is_whole(folder, name)
    folder.write("other.json", b"{}")
    assert whole_names(folder) == {"other.json"}


def test_an_upload_that_breaks_off_leaves_nothing_to_look_at(object_store: object) -> None:
    folder = Folder.at("s3://studies/shards")
    folder.write_table("a.parquet", TABLE)
    assert is_whole(folder, "a.parquet") and not is_whole(folder, "b.parquet")
