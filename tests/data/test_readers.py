"""The same rows and line numbers from every kind of file, and an error with file and line where one is damaged."""

import gzip
import json
import os
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from instsel.data import readers
from instsel.data.formats import MOST_BYTES, parse_row
from instsel.data.messages import BadRow
from instsel.data.readers import SourceFile, read_chunks, source_files
from instsel.errors import InputError

ROWS: list[dict[str, Any]] = [
    {
        "messages": [{"role": "user", "content": f"é😀 {n * 7919 % 1013}"}, {"role": "assistant", "content": "a\nb"}],
        "n": n,
    }
    for n in range(500)
]
TEXT = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
HALF = 20_000


def _parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=64)


def _saved(path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(path)


def _packed(pack: Callable[[bytes], bytes], *parts: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(b"".join(pack(part) for part in parts)) and None


KINDS: dict[str, Callable[[Path], None]] = {
    "rows.jsonl": _packed(bytes, TEXT),
    "unended.jsonl": _packed(bytes, TEXT[:-1]),
    "windows.JSONL": _packed(bytes, TEXT.replace(b"\n", b"\r\n")),
    "rows.ndjson": _packed(bytes, TEXT),
    "rows.json": _packed(bytes, TEXT),
    "rows.jsonl.gz": _packed(gzip.compress, TEXT),
    "members.jsonl.gz": _packed(gzip.compress, TEXT[:HALF], TEXT[HALF:]),
    "rows.jsonl.zst": _packed(zstandard.compress, TEXT),
    "frames.jsonl.zst": _packed(zstandard.compress, TEXT[:HALF], TEXT[HALF:]),
    "rows.parquet": _parquet,
    "saved": _saved,
}


def read(uri: str | Path, rows: int = 90, **how: Any) -> list[tuple[int, list[Any]]]:
    """Every chunk of what a path stands for, its lines as values."""
    files = source_files(str(uri), **how)
    return [(first, [json.loads(line) for line in lines]) for file in files for first, lines in read_chunks(file, rows)]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_rows_and_numbers(name: str, tmp_path: Path) -> None:
    KINDS[name](tmp_path / name)
    expected = [(start + 1, ROWS[start : start + 90]) for start in range(0, 500, 90)]
    assert read(tmp_path / name) == expected
    assert read(f"file://{tmp_path}/{name}") == expected
    assert read(tmp_path / name, rows=7, limit=20) == [(1, ROWS[:7]), (8, ROWS[7:14]), (15, ROWS[14:20])]
    assert read(tmp_path / name, rows=1000, limit=1000) == [(1, ROWS)]


def test_files_behind_fsspec_are_read(tmp_path: Path) -> None:
    import fsspec

    place = f"memory://{uuid.uuid4().hex}"
    for name in ("rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst", "rows.parquet"):
        KINDS[name](tmp_path / name)
        with fsspec.open(f"{place}/{name}", "wb") as stream:
            stream.write((tmp_path / name).read_bytes())
        assert read(f"{place}/{name}") == read(tmp_path / name)


def test_a_dataset_saved_behind_fsspec_is_read() -> None:
    from datasets import Dataset

    place = f"memory://{uuid.uuid4().hex}/saved"
    Dataset.from_list(ROWS).save_to_disk(place)
    assert read(place, rows=1000) == [(1, ROWS)]


def test_blank_lines_count_but_are_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\n{"a": 1}\n  \r\n\n{"a": 2}')
    assert list(read_chunks(SourceFile(str(tmp_path / "a.jsonl")), 10)) == [
        (1, [b"", b'{"a": 1}', b"", b"", b'{"a": 2}'])
    ]


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flip(content: bytes) -> bytes:
    place = len(content) // 3
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "members.jsonl.gz", "rows.jsonl.zst", "frames.jsonl.zst"])
def test_a_file_that_is_cut_off_is_named_with_its_last_line(name: str, tmp_path: Path) -> None:
    KINDS[name](tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for cut in (_cut(content), content[:-1]):
        (tmp_path / name).write_bytes(cut)
        seen: list[int] = []
        with pytest.raises(InputError) as error:
            for first, _ in read_chunks(SourceFile(str(tmp_path / name)), 1):
                seen.append(first)
        last = seen[-1] if seen else 0
        assert str(error.value).startswith(f"{tmp_path}/{name}: damaged after line {last} (")
        assert str(error.value).endswith("; fetch or pack the file again")


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("rows.jsonl.gz", _flip),
        ("rows.jsonl.gz", lambda content: TEXT),
        ("rows.jsonl.zst", lambda content: TEXT),
        ("rows.parquet", _cut),
        ("rows.parquet", lambda content: content[:-1]),
        ("rows.parquet", lambda content: b"PAR1"),
        ("rows.parquet", lambda content: TEXT),
    ],
)
def test_a_damaged_file_is_named(name: str, harm: Callable[[bytes], bytes], tmp_path: Path) -> None:
    KINDS[name](tmp_path / name)
    (tmp_path / name).write_bytes(harm((tmp_path / name).read_bytes()))
    with pytest.raises(InputError, match=rf"{name}: damaged after line \d+ \(.*; fetch or pack the file again"):
        list(read_chunks(SourceFile(str(tmp_path / name)), 90))


def test_only_as_much_is_read_as_is_asked_for(tmp_path: Path) -> None:
    """A damaged end does not matter to someone who reads the first rows."""
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(TEXT[:HALF]) + b"damage")
    assert read(tmp_path / "a.jsonl.gz", limit=5) == [(1, ROWS[:5])]


@pytest.mark.parametrize("name", ["rows.csv", "rows.txt", "rows.jsonl.bz2", "rows", "rows.gz"])
def test_an_unknown_ending_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(TEXT)
    with pytest.raises(InputError, match=rf"{name}: unknown extension; files are \.jsonl"):
        read(tmp_path / name)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    for place, why in {
        "none.jsonl": "file .*none.jsonl does not exist; correct the path",
        "none*.jsonl": r"no file matches .*none\*\.jsonl; correct the path",
        "none/*.jsonl": r"no file matches .*none/\*\.jsonl; correct the path",
    }.items():
        with pytest.raises(InputError, match=why):
            source_files(f"{tmp_path}/{place}")


def test_an_empty_file_is_refused_alone_or_among_others(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(TEXT)
    (tmp_path / "b.jsonl").touch()
    for place in ("b.jsonl", "*.jsonl"):
        with pytest.raises(InputError, match=r"file .*/b\.jsonl is empty; remove it or correct the path"):
            source_files(f"{tmp_path}/{place}")


def test_a_folder_is_refused_unless_it_is_a_saved_dataset(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    message = rf"{tmp_path}/ is a folder but not a saved dataset; write {tmp_path}/\*\.jsonl"
    with pytest.raises(InputError, match=message):
        source_files(f"{tmp_path}/")
    DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "splits")
    with pytest.raises(InputError, match="holds several splits; give the folder of one of them"):
        source_files(f"{tmp_path}/splits")
    assert read(tmp_path / "splits/train", rows=1000) == [(1, ROWS)]


def test_a_hub_dataset_streams_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    def load_dataset(name: str, *, split: str, streaming: bool) -> Any:
        assert (name, split, streaming) == ("owner/name", "test", True)
        return Dataset.from_list(ROWS).to_iterable_dataset()

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read("hf:owner/name", split="test", limit=100) == [(1, ROWS[:90]), (91, ROWS[90:100])]


def test_a_dataset_that_brings_a_script_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/rows.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(RuntimeError, match="Dataset scripts are no longer supported"):
        read(f"hf:{tmp_path}/rows")
    assert not (tmp_path / "ran").exists()


def test_what_a_column_of_pictures_names_is_not_opened(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Value, load_from_disk

    row = {"n": 1, "picture": {"bytes": None, "path": str(tmp_path / "nowhere")}}
    features = Features({"n": Value("int64"), "picture": {"bytes": Value("binary"), "path": Value("string")}})
    Dataset.from_list([row], features=features).save_to_disk(tmp_path / "saved")
    info = tmp_path / "saved/dataset_info.json"
    told = json.loads(info.read_text())
    told["features"]["picture"] = {"_type": "Image"}
    info.write_text(json.dumps(told))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(load_from_disk(tmp_path / "saved"))
    assert read(tmp_path / "saved") == [(1, [row])]


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_a_pickled_type_of_a_parquet_column_is_not_unpickled(tmp_path: Path) -> None:
    pickled = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Evil(tmp_path / "ran")),
    }
    schema = pa.schema([pa.field("n", pa.int64(), metadata=pickled)])
    pq.write_table(pa.table({"n": [1]}, schema=schema), tmp_path / "evil.parquet")
    assert read(tmp_path / "evil.parquet") == [(1, [{"n": 1}])]
    assert not (tmp_path / "ran").exists()


def test_a_value_that_python_cannot_hold_names_the_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"when": pa.array([2**62], pa.timestamp("ms"))}), tmp_path / "late.parquet")
    with pytest.raises(InputError, match=r"late\.parquet: damaged after line 0"):
        read(tmp_path / "late.parquet")


def test_of_a_line_without_end_only_the_beginning_is_held(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "bomb.jsonl.gz", "wb", compresslevel=1) as stream:
        stream.write(b'{"a": 1}\n')
        for _ in range(3):
            stream.write(b"a" * MOST_BYTES)
        stream.write(b'\n{"b": 2}\n')
    ((first, lines),) = read_chunks(SourceFile(str(tmp_path / "bomb.jsonl.gz")), 10)
    assert (first, [len(line) for line in lines]) == (1, [8, MOST_BYTES + 1, 8])
    with pytest.raises(BadRow, match="longer than 16 MiB"):
        parse_row(lines[1], "auto")


def test_a_chunk_of_huge_rows_has_fewer_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MOST_CHUNK_BYTES", 10)
    (tmp_path / "rows.jsonl").write_text("1234567\n12345\n1\n123456\n123456\n")
    found = [(first, len(lines)) for first, lines in read_chunks(SourceFile(str(tmp_path / "rows.jsonl")), 3)]
    assert found == [(1, 2), (3, 3)]


@pytest.mark.parametrize(
    ("uri", "stem"),
    [("/a/b.c/flan.jsonl.gz", "flan"), ("hf:owner/name", "name"), ("s3://b/x.parquet", "x"), ("saved", "saved")],
)
def test_a_file_is_called_by_its_name_without_endings(uri: str, stem: str) -> None:
    assert SourceFile(uri).stem == stem
