"""The same rows and line numbers from every kind of file, and an error with file and line where one is damaged."""

import bz2
import gzip
import json
import lzma
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
from instsel.data.readers import SourceFile, check_file, read_chunks, source_files
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


def _columns() -> bytes:
    return json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}).encode()


def _stream(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)


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
    "rows.jsonl.bz2": _packed(bz2.compress, TEXT[:HALF], TEXT[HALF:]),
    "rows.jsonl.xz": _packed(lzma.compress, TEXT[:HALF], TEXT[HALF:]),
    "called-plain.jsonl": _packed(gzip.compress, TEXT),
    "called-packed.jsonl.gz": _packed(bytes, TEXT),
    "called-parquet.parquet": _packed(bytes, TEXT),
    "rows": _packed(bytes, TEXT),
    "mac.jsonl": _packed(bytes, TEXT.replace(b"\n", b"\r")),
    "marked.jsonl": _packed(bytes, b"\xef\xbb\xbf" + TEXT),
    "excel.jsonl": _packed(bytes, TEXT.decode().encode("utf-16")),
    "excel.jsonl.gz": _packed(gzip.compress, TEXT.decode().encode("utf-16")),
    "commas.jsonl": _packed(bytes, TEXT.replace(b"\n", b",\n")),
    "sequence.json": _packed(bytes, b"\x1e" + TEXT.strip().replace(b"\n", b"\n\x1e") + b"\n"),
    "array.json": _packed(bytes, json.dumps(ROWS, ensure_ascii=False).encode()),
    "printed.jsonl": _packed(bytes, json.dumps(ROWS, indent=2).encode()),
    "array.json.zst": _packed(zstandard.compress, b"[" + TEXT.strip().replace(b"\n", b",\n") + b"]"),
    "marked.json": _packed(bytes, b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
    "one-line.jsonl": _packed(bytes, TEXT.replace(b"\n", b" ")),
    "objects.json": _packed(bytes, "\n".join(json.dumps(row, indent=4) for row in ROWS).encode()),
    "key.json": _packed(bytes, json.dumps({"version": 1, "data": ROWS, "by": "us"}).encode()),
    "splits.json": _packed(bytes, json.dumps({"test": ROWS[:3], "train": ROWS}, indent=1).encode()),
    "columns.json": _packed(bytes, _columns()),
    "rows.parquet": _parquet,
    "called.jsonl": _parquet,
    "rows.arrow": _stream,
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


@pytest.mark.parametrize("packed", ["rows.jsonl.gz", "members.jsonl.gz", "rows.jsonl.zst", "frames.jsonl.zst"])
def test_a_file_that_is_cut_off_is_named_with_its_last_line(packed: str, tmp_path: Path) -> None:
    KINDS[packed](tmp_path / packed)
    content = (tmp_path / packed).read_bytes()
    for cut in (_cut(content), content[:-1]):
        (tmp_path / packed).write_bytes(cut)
        _check_damage(tmp_path / packed, "line")


@pytest.mark.parametrize("name", ["rows.jsonl.bz2", "rows.jsonl.xz", "array.json", "key.json", "rows.arrow"])
def test_a_file_of_another_kind_that_is_cut_off_is_named_with_its_last_row(name: str, tmp_path: Path) -> None:
    KINDS[name](tmp_path / name)
    (tmp_path / name).write_bytes(_cut((tmp_path / name).read_bytes()))
    _check_damage(tmp_path / name, "line" if "jsonl" in name else "row")


def _check_damage(path: Path, unit: str) -> None:
    seen: list[int] = []
    with pytest.raises(InputError) as error:
        for first, _ in read_chunks(SourceFile(str(path)), 1):
            seen.append(first)
    last = seen[-1] if seen else 0
    assert str(error.value).startswith(f"{path}: damaged after {unit} {last} (")
    assert str(error.value).endswith("; fetch or pack the file again")


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("rows.jsonl.gz", _flip),
        ("rows.parquet", _cut),
        ("rows.parquet", lambda content: content[:-1]),
        ("rows.parquet", lambda content: b"PAR1"),
        ("array.json", lambda content: content + b" and so on"),
        ("array.json", lambda content: content.replace(b'"n": 7}', b'"n" 7}')),
        ("rows.arrow", lambda content: content[:200]),
        ("saved", lambda content: content[:200]),
    ],
)
def test_a_damaged_file_is_named(name: str, harm: Callable[[bytes], bytes], tmp_path: Path) -> None:
    KINDS[name](tmp_path / name)
    path = next((tmp_path / name).glob("*.arrow"), tmp_path / name)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(InputError, match=rf"{name}: damaged after (line|row) \d+ \(.*; fetch or pack the file again"):
        list(read_chunks(SourceFile(str(tmp_path / name)), 90))


def test_an_error_names_the_key_of_the_study_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[{}, {")
    with pytest.raises(InputError, match=r"^pool\.3\.path: .*a\.json: damaged after row 1 \("):
        list(read_chunks(SourceFile(str(tmp_path / "a.json"), key="pool.3.path"), 90))


def test_only_as_much_is_read_as_is_asked_for(tmp_path: Path) -> None:
    """A damaged end does not matter to someone who reads the first rows."""
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(TEXT[:HALF]) + b"damage")
    assert read(tmp_path / "a.jsonl.gz", limit=5) == [(1, ROWS[:5])]


def test_comments_count_as_lines_and_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('// ours\n# too\n{"a": 1},\n  # indented\n,\n{"a": "# 2"}\n')
    assert list(read_chunks(SourceFile(str(tmp_path / "a.jsonl")), 10)) == [
        (1, [b"", b"", b'{"a": 1}', b"", b"", b'{"a": "# 2"}'])
    ]


def test_a_split_of_a_json_object_is_read(tmp_path: Path) -> None:
    KINDS["splits.json"](tmp_path / "splits.json")
    assert read(tmp_path / "splits.json", split="test") == [(1, ROWS[:3])]


def test_csv_and_tsv_are_rows_of_texts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('question,answer\n"a, b?",c\nd,e\nf,g\n')
    assert read(tmp_path / "a.csv", rows=2) == [
        (1, [{"question": "a, b?", "answer": "c"}, {"question": "d", "answer": "e"}]),
        (3, [{"question": "f", "answer": "g"}]),
    ]


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


def test_an_empty_file_may_be_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(TEXT)
    (tmp_path / "b.jsonl").touch()
    files = source_files(f"{tmp_path}/*.jsonl", allow_empty=True)
    assert [sum(len(rows) for _, rows in read_chunks(file, 90)) for file in files] == [500, 0]
    check_file(files[1], allow_empty=True)
    with pytest.raises(InputError, match=r"b\.jsonl holds no row; remove it or correct the path"):
        check_file(files[1])


def test_a_folder_is_the_data_in_it(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    with pytest.raises(InputError, match=rf"{tmp_path}/: a folder without data files"):
        source_files(f"{tmp_path}/")
    DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:5])}).save_to_disk(tmp_path / "both")
    for uri, split, rows in (("both", "train", 500), ("both", "test", 5), ("both/test", "train", 5)):
        ((first, lines),) = read(tmp_path / uri, split=split, rows=1000)
        assert (first, lines) == (1, ROWS[:rows])
    assert [file.stem for file in source_files(f"{tmp_path}/both")] == ["both"]
    with pytest.raises(InputError, match="both: it has no split `dev`, but train, test; name one of them with `split`"):
        source_files(f"{tmp_path}/both", split="dev")


def test_a_glob_matches_files_and_saved_datasets(tmp_path: Path) -> None:
    for name in ("a.jsonl", "deep/b.jsonl", "deep/er/c.jsonl", ".hidden.jsonl", "._a.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(TEXT)
    _saved(tmp_path / "saved")

    def names(pattern: str) -> list[str]:
        return [file.uri.removeprefix(f"{tmp_path}/") for file in source_files(f"{tmp_path}/{pattern}")]

    assert names("*.jsonl") == ["a.jsonl"]
    assert names("*a*") == ["a.jsonl", "saved"]
    assert names("**/*.jsonl") == ["a.jsonl", "deep/b.jsonl", "deep/er/c.jsonl"]
    assert names("d*/*.jsonl") == ["deep/b.jsonl"]
    assert names("saved/*") == ["saved/data-00000-of-00001.arrow"]
    with pytest.raises(
        InputError, match="deep is a folder, which a pattern does not look into; write .*/deep/. for its"
    ):
        names("*")
    (tmp_path / "empty.jsonl").mkdir()
    assert names("*.jsonl") == ["a.jsonl"]
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"gone\.jsonl is a link to .*/nowhere, which does not exist; mend or remove"):
        names("*.jsonl")


@pytest.mark.parametrize(
    "name", ["data[v2].jsonl", "100%.jsonl", "a#b.jsonl", "a+b c.jsonl", "données é.jsonl", "wh?t*.jsonl"]
)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_name_that_exists_is_taken_as_it_is_written(name: str, scheme: str, tmp_path: Path) -> None:
    (tmp_path / "runs [1]").mkdir()
    for folder in (tmp_path, tmp_path / "runs [1]"):
        (folder / name).write_bytes(TEXT)
        (folder / "other.jsonl").write_text("{}\n")
        assert read(f"{scheme}{folder}/{name}", rows=1000) == [(1, ROWS)]
        assert len(source_files(f"{scheme}{folder}/*.jsonl")) == 2


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("https://example.com/rows.jsonl", "is a web address, which is not read; download it and give the path of"),
        ("http://example.com/*.jsonl", "is a web address, which is not read"),
        ("https://huggingface.co/datasets/owner/name", "is a web address, which is not read; write hf:owner/name"),
        ("https://huggingface.co/datasets/owner/name/resolve/main/a.parquet", "write hf:owner/name"),
    ],
)
def test_a_web_address_is_an_error(uri: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        source_files(uri)
    assert message in str(error.value)


def test_what_can_be_read_only_once_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        InputError, match="pipe is neither a file nor a folder, and is read more than once; write it into"
    ):
        source_files(f"{tmp_path}/pipe")


def test_keys_of_datasets_are_errors_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(TEXT)
    with pytest.raises(InputError, match=r"a\.jsonl is a file and has no `config`; remove `config`"):
        source_files(f"{tmp_path}/a.jsonl", config="main")
    with pytest.raises(InputError, match=r"a\.jsonl has no `revision`, as it is no hf:OWNER/NAME; remove `revision`"):
        source_files(f"{tmp_path}/a.jsonl", revision="main")


def test_a_split_or_configuration_that_does_nothing_is_an_error(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    (tmp_path / "a.jsonl").write_bytes(TEXT)
    (tmp_path / "a.json").write_text('{"data": [{"a": 1}]}')
    saved = Dataset.from_list([{"a": 1}])
    saved.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": saved, "test": saved}).save_to_disk(tmp_path / "splits")
    for name in ("a.jsonl", "a.json", "saved", "splits/train", "splits/*"):
        file = source_files(f"{tmp_path}/{name}", split="test")[0]
        with pytest.raises(InputError, match="has no split `test`, as it is not divided into splits; remove `split`"):
            check_file(file)
    (tmp_path / "b.json").write_text('{"train": [{"a": 1}], "test": [{"a": 2}]}')
    (tmp_path / "folder").mkdir()
    for name in ("train", "test"):
        (tmp_path / f"folder/{name}.jsonl").write_bytes(TEXT)
    for name in ("b.json", "splits", "folder"):
        (file,) = source_files(f"{tmp_path}/{name}", split="test")
        check_file(file)
    for name in ("saved", "splits"):
        with pytest.raises(InputError, match="was saved by `datasets` and has no `config`; remove `config`"):
            source_files(f"{tmp_path}/{name}", config="main")


def test_braces_are_no_pattern_and_the_error_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(TEXT)
    for pattern in ("{a,b}.jsonl", "{a,b}*"):
        with pytest.raises(InputError, match="braces are no pattern here: write an entry for each"):
            source_files(f"{tmp_path}/{pattern}")


@pytest.mark.parametrize(
    ("name", "content", "row"),
    [("a.json", '[{"a": 1}, {b: 2}, {"a": 333333333333333}]', 1), ("a.csv", 'a,b\n1,2\n"x" y,2\n', 1)],
)
def test_what_is_wrong_in_a_text_is_to_be_corrected_there(name: str, content: str, row: int, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(
        InputError, match=rf"{name}: damaged after row {row} .*; fetch or pack the file again, or correct it"
    ):
        list(read_chunks(SourceFile(str(tmp_path / name)), 10))


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_checked_by_its_first_row(name: str, tmp_path: Path) -> None:
    KINDS[name](tmp_path / name)
    (file,) = source_files(str(tmp_path / name))
    check_file(file)


@pytest.mark.parametrize(
    "content", [b"[]", b'{"rows": []}', b"  \n\n", b"# to do\n", b"question,answer\n", gzip.compress(b"", mtime=0)]
)
def test_a_file_without_rows_is_an_error_of_the_check(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.csv holds no row; remove it or correct the path"):
        check_file(SourceFile(str(tmp_path / "a.csv")))
    check_file(SourceFile(str(tmp_path / "a.csv")), allow_empty=True)


def test_a_table_without_rows_is_an_error_of_the_check(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet holds no row"):
        check_file(SourceFile(str(tmp_path / "a.parquet")))


def test_a_hub_dataset_streams_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    def load_dataset(name: str, *, split: str, streaming: bool) -> Any:
        assert (name, split, streaming) == ("owner/name", "test", True)
        return Dataset.from_list(ROWS).to_iterable_dataset()

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read("hf:owner/name", split="test", limit=100) == [(1, ROWS[:90]), (91, ROWS[90:100])]


def test_a_configuration_and_a_revision_of_a_hub_dataset_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    asked: list[Any] = []

    def load_dataset(*names: str, **options: Any) -> Any:
        asked.append((*names, options))
        return Dataset.from_list(ROWS[:2]).to_iterable_dataset()

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read("hf:owner/name", config="main", revision="v1", split=None) == [(1, ROWS[:2])]
    assert asked == [("owner/name", {"split": "train", "streaming": True, "name": "main", "revision": "v1"})]


def test_a_hub_path_that_is_local_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone/train.jsonl").write_bytes(TEXT)
    assert read(f"hf:{tmp_path}/clone", rows=1000) == [(1, ROWS)]


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
    with pytest.raises(InputError, match=r"late\.parquet: damaged after row 0"):
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
    [
        ("/a/b.c/flan.jsonl.gz", "flan"),
        ("hf:owner/name", "name"),
        ("s3://b/x.parquet", "x"),
        ("saved", "saved"),
        ("x/train-00000-of-00002.parquet", "train"),
    ],
)
def test_a_file_is_called_by_its_name_without_endings(uri: str, stem: str) -> None:
    assert SourceFile(uri).stem == stem
