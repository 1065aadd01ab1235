"""Rows of tables as JSON: what each type of value becomes, and in how much memory."""

import datetime as dt
import decimal
import io
import json
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instsel.data import tables
from instsel.data.tables import (
    arrow_rows,
    column_rows,
    dump,
    parquet_length,
    parquet_rows,
    saved_files,
    saved_length,
    saved_rows,
)
from instsel.errors import InputError

SOME = uuid.UUID(int=7)
# A column, and what JSON has of its values.
COLUMNS: dict[str, tuple[pa.Array, list[Any]]] = {
    "text": (pa.array(["é", None]), ["é", None]),
    "large": (pa.array(["é", ""], pa.large_string()), ["é", ""]),
    "view": (pa.array(["é", "a longer text than that"], pa.string_view()), ["é", "a longer text than that"]),
    "words": (pa.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
    "bytes": (pa.array(["é".encode(), b"a"]), ["é", "a"]),
    "binary": (pa.array([b"\xff\xd8\xff", None]), [{"bytes": 3}, None]),
    "numbers": (pa.array([1, 2**60]), [1, 2**60]),
    "floats": (pa.array([0.1, 2.0]), [0.1, 2.0]),
    "decimals": (pa.array([decimal.Decimal("3.00"), decimal.Decimal("0.25")]), [3, 0.25]),
    "flags": (pa.array([True, False]), [True, False]),
    "days": (pa.array([dt.date(2024, 2, 29), None]), ["2024-02-29", None]),
    "times": (
        pa.array([dt.datetime(2024, 2, 29, 1, tzinfo=dt.timezone.utc), None]),
        ["2024-02-29 01:00:00+00:00", None],
    ),
    "uuids": (pa.array([SOME.bytes, None], pa.uuid()), [str(SOME), None]),
    "json": (pa.array(['{"a": 1}', None], pa.json_()), ['{"a": 1}', None]),
    "lists": (pa.array([["a", "b"], []]), [["a", "b"], []]),
    "turns": (pa.array([[{"role": "user", "content": b"x"}], None]), [[{"role": "user", "content": "x"}], None]),
    "columns": (pa.array([{"role": ["user"], "content": ["x"]}, None]), [{"role": ["user"], "content": ["x"]}, None]),
    "maps": (pa.array([[("a", 1), ("b", 2)], []], pa.map_(pa.string(), pa.int8())), [{"a": 1, "b": 2}, {}]),
    "byte maps": (pa.array([[(b"a", 1)], []], pa.map_(pa.binary(), pa.int8())), [{"a": 1}, {}]),
    "a.b": (pa.array([1, 2]), [1, 2]),
    "a": (pa.array([1, 2]), [1, 2]),
}
TABLE = pa.table({name: column for name, (column, _) in COLUMNS.items()})
EXPECTED = [{name: values[row] for name, (_, values) in COLUMNS.items()} for row in range(2)]


def _stream(path: Path, table: pa.Table, batch: int | None = None) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)


def _file(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def test_values_are_as_json_writes_them(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    _stream(tmp_path / "a.arrow", TABLE)
    _file(tmp_path / "b.arrow", TABLE)
    for rows in (
        parquet_rows(str(tmp_path / "a.parquet")),
        arrow_rows(str(tmp_path / "a.arrow")),
        arrow_rows(str(tmp_path / "b.arrow")),
    ):
        assert [json.loads(row) for row in rows] == EXPECTED
    assert parquet_length(str(tmp_path / "a.parquet")) == 2


def test_the_index_of_pandas_is_left_out(tmp_path: Path) -> None:
    table = pa.table({"a": ["x"], "__index_level_0__": [7], "__index_level_12__": [8], "__index_level__": [9]})
    pq.write_table(table, tmp_path / "a.parquet")
    _stream(tmp_path / "a.arrow", table)
    for rows in (parquet_rows(str(tmp_path / "a.parquet")), arrow_rows(str(tmp_path / "a.arrow"))):
        assert [json.loads(row) for row in rows] == [{"a": "x", "__index_level__": 9}]


def test_two_columns_of_one_name_are_an_error(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "a.parquet")
    _stream(tmp_path / "a.arrow", table)
    for rows in (parquet_rows(str(tmp_path / "a.parquet")), arrow_rows(str(tmp_path / "a.arrow"))):
        with pytest.raises(InputError, match=r"a\.\w+: two columns have one name; rename one"):
            list(rows)


def test_a_batch_of_many_columns_or_long_texts_has_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    whole = pa.RecordBatch.to_pylist
    monkeypatch.setattr(tables, "_batch_rows", lambda batch: (sizes.append(len(batch)), map(dump, whole(batch)))[1])
    wide = pa.table({f"c{n}": range(100) for n in range(2000)})
    long = pa.table({"a": [f"{n:07d}" * 30_000 for n in range(200)]})
    # 65,536 values of 2,000 columns, or 32 MiB of 210 kB a row.
    for name, table, most in (("wide", wide, 32), ("long", long, 159)):
        pq.write_table(table, tmp_path / name, use_dictionary=False)
        sizes.clear()
        rows = [json.loads(row) for row in parquet_rows(str(tmp_path / name))]
        assert rows == table.to_pylist()
        assert max(sizes) == most
    _stream(tmp_path / "stream", wide)
    sizes.clear()
    assert sum(1 for _ in arrow_rows(str(tmp_path / "stream"))) == 100
    assert max(sizes) == 32


def test_a_saved_dataset_is_read_from_its_files_in_order(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [{"n": n, "text": "é" * n} for n in range(100)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved", num_shards=3)
    assert len(saved_files(str(tmp_path / "saved"))) == 3
    assert [json.loads(row) for row in saved_rows(f"{tmp_path}/saved/")] == rows
    assert saved_length(str(tmp_path / "saved")) == 3
    second = tmp_path / "saved" / saved_files(str(tmp_path / "saved"))[1]
    second.write_text("version https://git-lfs.github.com/spec/v1\n")
    for read in (saved_length, lambda uri: list(saved_rows(uri))):
        with pytest.raises(
            InputError, match=rf"{second.name}: a Git LFS pointer, not the file; fetch it: git lfs pull"
        ):
            read(str(tmp_path / "saved"))
    second.write_text("{}")
    with pytest.raises(InputError, match=rf"{second.name}: no Arrow file; fetch or save it again"):
        saved_length(str(tmp_path / "saved"))
    second.unlink()
    with pytest.raises(InputError, match=rf"{second.name} does not exist; correct the path"):
        saved_length(str(tmp_path / "saved"))
    (tmp_path / "saved/state.json").write_text("{}")
    with pytest.raises(InputError, match=r"saved/state\.json does not list the files of the dataset; save it again"):
        saved_files(str(tmp_path / "saved"))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": ["x", "é"], "b": [1, null]}',
        '\ufeff{"a": {"0": "x", "7": "é"}, "b": {"0": 1, "7": null}}',
        '{"columns": ["a", "b"], "index": [0, 1], "data": [["x", 1], ["é", null]]}',
        '{"0": {"a": "x", "b": 1}, "1": {"a": "é", "b": null}}',
        '{"first": {"a": "x", "b": 1}, "second": {"a": "é", "b": null}}',
    ],
)
def test_columns_are_rows(text: str) -> None:
    rows = [json.loads(row) for row in column_rows(io.BytesIO(text.encode()), "a.json")]
    assert rows == [{"a": "x", "b": 1}, {"a": "é", "b": None}]


def test_columns_that_are_no_table_or_too_large_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ('{"a": ["x"], "b": []}', '{"a": {"0": 1}, "b": {"0": 1, "1": 2}}'):
        with pytest.raises(InputError, match=r"a\.json: columns of different lengths; write its rows as JSON lines"):
            list(column_rows(io.BytesIO(text.encode()), "a.json"))
    monkeypatch.setattr(tables, "MOST_COLUMN_BYTES", 20)
    assert len(list(column_rows(io.BytesIO(b'{"a": [1, 2, 3, 4]}'), "a.json"))) == 4
    with pytest.raises(InputError, match=r"a\.json: an object of columns longer than 0 MiB, .* as JSON lines"):
        list(column_rows(io.BytesIO(b'{"a": [1, 2, 3, 4, 5]}'), "a.json"))
