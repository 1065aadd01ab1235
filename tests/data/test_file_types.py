"""Files by their first bytes, whatever they are called."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import re
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from instsel.data import file_types
from instsel.data.file_types import BEGINNING, file_type, open_text
from instsel.errors import InputError

ROW = {"instruction": "Où est l'été?", "output": "a 😀\n b"}
LINES = "".join(json.dumps({**ROW, "n": n}, ensure_ascii=False) + "\n" for n in range(50))
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
}


@pytest.mark.parametrize("packing", [(), *((name,) for name in PACKERS), ("gzip", "zstd"), ("xz", "gzip")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_packing_encoding_and_line_ends_are_seen(
    packing: tuple[str, ...], encoding: str, end: str, tmp_path: Path
) -> None:
    content = LINES.replace("\n", end).encode(encoding)
    for packer in packing[::-1]:
        content = PACKERS[packer](content)
    path = tmp_path / "rows.bin"
    path.write_bytes(content)
    kind = file_type(str(path))
    assert (kind.packing, kind.binary, kind.has_lone_cr) == (packing, None, end == "\r")
    text = open_text(str(path), kind).read().decode("utf-8-sig")
    assert text == LINES.replace("\n", "\n" if end == "\r" else end)


def test_members_frames_and_parallel_zstd_are_one_text(tmp_path: Path) -> None:
    parts = LINES[:1000].encode(), LINES[1000:].encode()
    for name, pack in PACKERS.items():
        (tmp_path / name).write_bytes(b"".join(pack(part) for part in parts))
    skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"
    (tmp_path / "parallel").write_bytes(skipped + zstandard.compress(LINES.encode()))
    (tmp_path / "padded").write_bytes(gzip.compress(LINES.encode()) + bytes(512))
    for path in tmp_path.iterdir():
        assert open_text(str(path), file_type(str(path))).read().decode() == LINES


def test_binaries_are_told_whatever_they_are_called(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([ROW])
    pq.write_table(table, tmp_path / "a.jsonl")
    with pa.ipc.new_file(tmp_path / "b.parquet", table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_stream(tmp_path / "c.csv", table.schema) as writer:
        writer.write_table(table)
    kinds = [file_type(str(path)).binary for path in sorted(tmp_path.iterdir())]
    assert kinds == ["parquet", "arrow file", "arrow stream"]
    for path in sorted(tmp_path.iterdir()):
        packed = tmp_path / "packed.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        with pytest.raises(InputError, match=r"packed\.gz: (Parquet|Arrow file|Arrow stream) packed by gzip, which"):
            file_type(str(packed))


def _zip(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return stream.getvalue()


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("rows.jsonl"))
    return stream.getvalue()


def _database(folder: Path) -> bytes:
    connection = sqlite3.connect(folder / "rows.db")
    connection.execute("create table rows (a)")
    connection.close()
    return (folder / "rows.db").read_bytes()


def _weights() -> bytes:
    from safetensors.numpy import save

    return save({"a": np.zeros(3, np.float32)})


def _torch() -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save({"rows": [1]}, stream)
    return stream.getvalue()


def _numpy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 22773\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "a Git LFS pointer, not the file; fetch it: git lfs pull"),
        (b"/annex/objects/SHA256E-s22--4d7a.jsonl\n", "a git-annex pointer, not the file; fetch it: git annex get"),
        (b"\n <!doctype HTML>\n<html><body>404</body></html>", "a web page, not the file; download the file itself"),
        (b"\xef\xbb\xbf<HTML lang='en'>", "a web page, not the file"),
        (b"<?xml version='1.0'?><rows/>", "XML; write its text into rows of JSON"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF; write its text into rows of JSON"),
        (_zip("rows.jsonl"), "a zip archive; unpack it and give the files in it"),
        (_zip("[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook; save its sheet as CSV UTF-8"),
        (_zip("[Content_Types].xml", "word/document.xml"), "a Word document"),
        (_tar(), "a tar archive; unpack it and give the files in it"),
        (gzip.compress(_tar()), "a tar archive; unpack it"),
        (_torch(), "a PyTorch file or another pickle, which runs code when it is opened and is not read"),
        (pickle.dumps([ROW]), "a PyTorch file or another pickle"),
        (pickle.dumps([ROW], 2), "a PyTorch file or another pickle"),
        (_weights(), "weights of a model; give a file of rows"),
        (b"GGUF\x03\0\0\0", "weights of a model"),
        (_numpy(), "an array of NumPy; give a file of rows"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a picture; give a file of rows"),
        (b"PARE\x15\x04", "an encrypted Parquet file; decrypt it"),
        (bytes(range(256)), "binary data of an unknown kind; give JSON lines, a JSON array, CSV, Parquet or Arrow"),
        (bytes(500), "binary data of an unknown kind"),
        (b"Some notes of ours.\n\nMore of them.\n", "plain text, neither JSON nor CSV; write one JSON object a line"),
        ("Some notes, in UTF-16.\n\nMore.".encode("utf-16"), "plain text, neither JSON nor CSV"),
    ],
    # Not by the bytes, in which archives have the time.
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows"])
def test_what_holds_no_rows_says_what_it_is(content: bytes, message: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        file_type(str(tmp_path / name))
    assert str(error.value).startswith(f"{tmp_path / name}: {message}")


def test_a_database_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(_database(tmp_path))
    with pytest.raises(InputError, match="an SQLite database; write its table as CSV or JSON lines"):
        file_type(str(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize(
    ("name", "message"),
    [("rows.txt", "JSON, but called .txt, as plain text is; rename it"), ("rows.TXT.gz", "JSON, but called .txt")],
)
def test_what_is_called_txt_is_prose(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(LINES)
    with pytest.raises(InputError, match=re.escape(message)):
        file_type(str(tmp_path / name))
    (tmp_path / name).write_text("Once upon a time")
    with pytest.raises(InputError, match="plain text; write one JSON object a line"):
        file_type(str(tmp_path / name))


@pytest.mark.parametrize(
    ("text", "encoding", "guess"),
    [
        ('{"a": "Café?"}', "latin-1", "WINDOWS-1252"),
        ('{"instruction": "Größe und Übermut", "output": "schön"}\n' * 5, "latin-1", "WINDOWS-1252"),
        ('{"instruction": "“Quoted” – with dashes", "output": "it’s"}\n' * 5, "cp1252", "WINDOWS-1252"),
        ('{"instruction": "机器学习是什么?请解释一下。", "output": "一个分支。"}\n' * 5, "gb18030", "GB18030"),
        ('{"instruction": "Что такое обучение?", "output": "Это раздел информатики."}\n' * 5, "cp1251", "WINDOWS-1251"),
        ("question,answer\nOù?,Là.\nÉtait-ce?,Là-bas, déjà.\n", "latin-1", "WINDOWS-1252"),
    ],
)
def test_another_encoding_is_guessed(text: str, encoding: str, guess: str, tmp_path: Path) -> None:
    path = tmp_path / "our rows.jsonl"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(InputError) as error:
        file_type(str(path))
    command = f"iconv -f {guess} -t UTF-8 'our rows.jsonl' > 'utf8-our rows.jsonl'"
    assert str(error.value) == f"{path}: not in UTF-8, but by the look of it in {guess}; convert it: {command}"


@pytest.mark.parametrize(
    "lines",
    [
        [b'{"a": 1}', b'{"a": "\xe9"}', b'{"a": 2}'],
        [b'{"a": "\xe9"}', b'{"a": "\xc3\xa9"}'],
        [b'{"a": 1}'] * 3 + [b"\xff\xfe\xfd"] * 2,
        [b'{"a": "\xc3\xa9 \xc3\xa9"}'] * 4 + [b"\xff"] * 4,
        ["é".encode() * BEGINNING],
    ],
)
def test_a_bad_line_does_not_make_a_file_bad(lines: list[bytes], tmp_path: Path) -> None:
    lines = [line if line.startswith((b"{", b"\xff")) else b'{"a": "' + line + b'"}' for line in lines]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    assert file_type(str(tmp_path / "rows.jsonl")).encoding == "utf-8"


def test_a_beginning_is_as_long_as_it_has_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    beginning = file_types._beginning

    def counted(filesystem: Any, path: str, packing: Any, size: int) -> Any:
        sizes.append(size)
        return beginning(filesystem, path, packing, size)

    monkeypatch.setattr(file_types, "_beginning", counted)
    (tmp_path / "lines").write_text(LINES * 100)
    (tmp_path / "long").write_text(json.dumps({"a": "x" * 200_000}) + "\n" + LINES)
    rows = ",".join(LINES.strip().split("\n") * 2000)
    (tmp_path / "array").write_text(f"[{rows}]")
    (tmp_path / "key").write_text(f'{{"data": [{rows}]}}')
    (tmp_path / "other").write_text(f'{{"mine": [{rows}]}}')
    kinds = []
    for name in ("lines", "long", "array", "key", "other"):
        sizes.clear()
        kind = file_type(str(tmp_path / name)).text
        assert kind is not None
        kinds.append((kind.layout, *kind.path, len(sizes)))
    expected = [("lines", 1), ("lines", 2), ("values", 1), ("values", "data", 1), ("values", "mine", 3)]
    assert kinds == expected


def test_of_a_damaged_file_what_can_be_read_counts(tmp_path: Path) -> None:
    packed = gzip.compress(LINES.encode())
    (tmp_path / "cut.gz").write_bytes(packed[: len(packed) - 9])
    assert file_type(str(tmp_path / "cut.gz")).packing == ("gzip",)
    (tmp_path / "nothing.gz").write_bytes(packed[:4])
    with pytest.raises(InputError, match=r"nothing\.gz: damaged after line 0 \(Compressed file ended"):
        file_type(str(tmp_path / "nothing.gz"))
    (tmp_path / "half").write_bytes('{"a": "é"}'.encode("utf-16")[:-1])
    with pytest.raises(InputError, match=r"half: damaged after line 0 \('utf-16-le' codec can't decode"):
        file_type(str(tmp_path / "half"))
