"""The same rows and line numbers from every kind of file, and an error with file and line where one is damaged."""

import gzip
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

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
    with pytest.raises(InputError, match=rf"{name}: unknown ending; files are \.jsonl"):
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

    with pytest.raises(InputError, match=rf"{tmp_path}/ is a folder but no saved dataset; write {tmp_path}/\*\.jsonl"):
        source_files(f"{tmp_path}/")
    DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "splits")
    with pytest.raises(InputError, match="holds several splits; give the folder of one of them"):
        source_files(f"{tmp_path}/splits")
    assert read(tmp_path / "splits/train", rows=1000) == [(1, ROWS)]


def test_a_hub_dataset_streams_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, *, split: str, streaming: bool) -> Any:
        assert (name, split, streaming) == ("owner/name", "test", True)
        return iter(ROWS)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read("hf:owner/name", split="test", limit=100) == [(1, ROWS[:90]), (91, ROWS[90:100])]


@pytest.mark.parametrize(
    ("uri", "stem"),
    [("/a/b.c/flan.jsonl.gz", "flan"), ("hf:owner/name", "name"), ("s3://b/x.parquet", "x"), ("saved", "saved")],
)
def test_a_file_is_called_by_its_name_without_endings(uri: str, stem: str) -> None:
    assert SourceFile(uri).stem == stem
