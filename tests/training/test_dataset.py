from pathlib import Path

import pyarrow as pa
import pytest

from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.training.dataset import SCHEMA, TrainingSet

ROWS = [
    {"id": "a", "input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
    {"id": "b", "input_ids": [8], "labels": [8]},
]


def write(folder: Folder, rows: list, schema: pa.Schema = SCHEMA) -> tuple[Folder, str]:
    folder.write_table("set.arrow", pa.Table.from_pylist(rows, schema=schema))
    return folder, "set.arrow"


def test_rows_come_back_as_examples(tmp_path: Path):
    rows = TrainingSet(*write(Folder.at(tmp_path), ROWS))
    assert len(rows) == 2
    assert rows[0] == {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}
    assert rows[-1] == {"input_ids": [8], "labels": [8]}
    assert rows[:1] == [rows[0]]


def test_a_local_file_is_mapped_not_read(tmp_path: Path):
    rows = [{"id": str(n), "input_ids": [n] * 1000, "labels": [n] * 1000} for n in range(2000)]
    place = write(Folder.at(tmp_path), rows)
    before = pa.total_allocated_bytes()
    opened = TrainingSet(*place)
    assert opened[1999]["input_ids"] == [1999] * 1000
    assert pa.total_allocated_bytes() - before < 1_000_000


def test_missing_files_columns_and_rows_are_told(tmp_path: Path):
    folder = Folder.at(tmp_path)
    with pytest.raises(InputError, match=r"set\.arrow does not exist"):
        TrainingSet(folder, "set.arrow")
    with pytest.raises(InputError, match="column labels is missing"):
        TrainingSet(*write(folder, ROWS, pa.schema(list(SCHEMA)[:2])))
    wide = pa.schema([*list(SCHEMA)[:2], ("labels", pa.list_(pa.int64()))])
    with pytest.raises(InputError, match=r"column labels is list<.*int64>; expected list<.*int32>"):
        TrainingSet(*write(folder, ROWS, wide))
    with pytest.raises(InputError, match="has no rows"):
        TrainingSet(*write(folder, []))
