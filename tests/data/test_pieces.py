"""The parts and byte ranges of large files have the chunks of `read_chunks`, whoever reads them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instsel.data import pieces, readers
from instsel.data.formats import MOST_BYTES
from instsel.data.pieces import WHOLE, divide, lines_of, read_part
from instsel.data.readers import SourceFile, read_chunks
from instsel.errors import InputError

Chunks = list[tuple[int, int, list[bytes]]]
ROWS = [json.dumps({"n": n, "text": f"é {'x' * (n * 7919 % 50)}"}, ensure_ascii=False).encode() for n in range(203)]
TEXTS = {
    "plain": b"\n".join(ROWS) + b"\n",
    "no end of line": b"\n".join(ROWS),
    "blank lines and comments": b"\n\n# one\n".join(ROWS) + b"\n\n\n",
    "CRLF and a mark": b"\xef\xbb\xbf" + b"\r\n".join(ROWS) + b"\r\n",
    "a mark within": b"\n\xef\xbb\xbf".join(ROWS) + b"\n",
    "a whole number of chunks": b"\n".join(ROWS[:200]) + b"\n",
    "one row": ROWS[0],
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "SMALLEST_DIVIDED", 1)
    monkeypatch.setattr(pieces, "SCAN_BYTES", 97)


def sequential(file: SourceFile, rows: int) -> Chunks:
    return [(number, first, lines) for number, (first, lines) in enumerate(read_chunks(file, rows))]


def divided(file: SourceFile, rows: int) -> Chunks:
    chunks = [chunk for part in divide(file, rows) for chunk in read_part(file, part, rows)]
    assert all(chunk.rows == len(lines_of(file, chunk)) for chunk in chunks)
    return [(chunk.number, chunk.first, lines_of(file, chunk)) for chunk in chunks]


@pytest.mark.parametrize("limit", [None, 1, 10, 57, 200, 10_000])
@pytest.mark.parametrize("rows", [1, 10, 100, 1_000])
@pytest.mark.parametrize("text", TEXTS)
def test_fault_19_byte_ranges_of_json_lines_are_the_chunks_of_the_file(
    text: str, rows: int, limit: int | None, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(TEXTS[text])
    file = SourceFile(str(tmp_path / "rows.jsonl"), limit=limit)
    assert all(chunk.lines is None for chunk in read_part(file, WHOLE, rows))
    assert divided(file, rows) == sequential(file, rows)


@pytest.mark.parametrize("limit", [None, 25, 90, 150])
def test_chunks_that_are_cut_by_their_size_are_the_same(
    limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (pieces, readers):
        monkeypatch.setattr(module, "MOST_CHUNK_BYTES", 2_000)
    lines = [*ROWS[:45], *[json.dumps({"text": "y" * 300}).encode()] * 30, *ROWS[45:]]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    file = SourceFile(str(tmp_path / "rows.jsonl"), limit=limit)
    assert divided(file, 20) == sequential(file, 20)
    assert {len(each) for _, _, each in divided(SourceFile(file.uri), 20)} > {20}


def test_a_row_above_the_limit_of_size_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "SCAN_BYTES", 1 << 20)
    huge = b'{"text": "' + b"z" * (MOST_BYTES + 100) + b'"}'
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([*ROWS[:15], huge, *ROWS[15:]]))
    file = SourceFile(str(tmp_path / "rows.jsonl"))
    assert divided(file, 10) == sequential(file, 10)


@pytest.mark.parametrize("limit", [None, 1, 64, 100, 201, 10_000])
@pytest.mark.parametrize(("group", "rows"), [(7, 1), (7, 3), (64, 2), (64, 5), (100, 3), (203, 4), (203, 500)])
def test_fault_19_parts_of_a_parquet_file_have_its_chunks(
    group: int, rows: int, limit: int | None, tmp_path: Path
) -> None:
    table = pa.Table.from_pylist([json.loads(row) for row in ROWS])
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=group)
    file = SourceFile(str(tmp_path / "rows.parquet"), limit=limit)
    assert divided(file, rows) == sequential(file, rows)
    if limit is None:
        assert (len(divide(file, rows)) > 1) == (group < 203)


def test_a_parquet_file_with_huge_rows_or_none_is_read_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (pieces, readers):
        monkeypatch.setattr(module, "MOST_CHUNK_BYTES", 2_000)
    table = pa.Table.from_pylist([{"text": f"{n}" * 200} for n in range(100)])
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=10)
    pq.write_table(table.slice(0, 0), tmp_path / "none.parquet")
    file = SourceFile(str(tmp_path / "rows.parquet"))
    assert divide(file, 20) == [WHOLE]
    assert divided(file, 20) == sequential(file, 20)
    assert divided(SourceFile(str(tmp_path / "none.parquet")), 20) == []


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json", "rows.csv"])
def test_other_files_are_read_from_the_beginning(name: str, tmp_path: Path) -> None:
    content: dict[str, bytes] = {
        "rows.jsonl.gz": gzip.compress(TEXTS["plain"]),
        "rows.json": b"[" + b",\n".join(ROWS) + b"]",
        "rows.csv": b"a,b\n" + b"1,2\n" * 99,
    }
    (tmp_path / name).write_bytes(content[name])
    file = SourceFile(str(tmp_path / name))
    assert divide(file, 10) == [WHOLE]
    assert all(chunk.lines is not None for chunk in read_part(file, WHOLE, 10))
    assert divided(file, 10) == sequential(file, 10)


def refusal(action: Any) -> str:
    with pytest.raises(InputError) as error:
        action()
    return str(error.value)


def test_bug_a_file_that_grows_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(TEXTS["plain"])
    file = SourceFile(str(path), key="pool.0.path")
    chunks = read_part(file, WHOLE, 10)
    next(chunks)
    with path.open("ab") as stream:
        stream.write(ROWS[0] + b"\n")
    text = refusal(lambda: list(chunks))
    assert text.startswith(f"pool.0.path: {path} changed while it was read, from ")


def test_a_file_that_was_cut_before_its_bytes_are_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(TEXTS["plain"])
    file = SourceFile(str(path), key="pool.0.path")
    *_, last = read_part(file, WHOLE, 10)
    path.write_bytes(TEXTS["plain"][:500])
    assert refusal(lambda: lines_of(file, last)).startswith(f"pool.0.path: {path} was changed while it was read")
    path.unlink()
    assert refusal(lambda: lines_of(file, last)) == f"pool.0.path: file {path} does not exist; correct the path"


def test_a_damaged_parquet_file_is_named_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1" + b"?" * 100)
    text = refusal(lambda: divide(SourceFile(str(path), key="pool.1.path"), 10))
    assert text.startswith(f"pool.1.path: {path}: damaged after row 0 ")
