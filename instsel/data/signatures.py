"""The first bytes of files that hold no rows: what they are, and what to do."""

import struct
from pathlib import PurePath

PYTORCH = (
    "a PyTorch file or another pickle, which runs code when it is opened and is not read; write its rows as JSON lines"
)
UNPACK = "unpack it and give the files in it"
PICTURE = "a picture; give a file of rows"
WEIGHTS = "weights of a model; give a file of rows"

# Where they begin, how, and what that is. The first that fits.
SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file; fetch it: git lfs pull"),
    (0, b"/annex/objects/", "a git-annex pointer, not the file; fetch it: git annex get"),
    (0, b"%PDF-", "a PDF; write its text into rows of JSON"),
    (0, b"SQLite format 3\0", "an SQLite database; write its table as CSV or JSON lines"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file; write its rows as Parquet or JSON lines"),
    (0, b"\x93NUMPY", "an array of NumPy; give a file of rows"),
    (0, b"GGUF", WEIGHTS),
    (0, b"Obj\x01", "an Avro file; write its rows as Parquet or JSON lines"),
    (0, b"ORC", "an ORC file; write its rows as Parquet"),
    (0, b"FEA1", "a Feather file of version 1; write it again with a recent pyarrow"),
    (0, b"PARE", "an encrypted Parquet file; decrypt it"),
    (0, b"7z\xbc\xaf\x27\x1c", f"a 7-Zip archive; {UNPACK}"),
    (0, b"Rar!\x1a\x07", f"a RAR archive; {UNPACK}"),
    (257, b"ustar", f"a tar archive; {UNPACK}"),
    (0, b"\x1f\x9d", f"packed by compress (.Z); {UNPACK}"),
    (0, b"\x04\x22\x4d\x18", "packed by lz4; unpack it or pack it with gzip or zstd"),
    (0, b"\x89PNG\r\n\x1a\n", PICTURE),
    (0, b"\xff\xd8\xff", PICTURE),
    (0, b"GIF8", PICTURE),
    (8, b"WEBP", PICTURE),
)
# Of a zip, by a name in it.
ZIPS = (
    (b"data.pkl", PYTORCH),
    (b"xl/", "an Excel workbook; save its sheet as CSV UTF-8"),
    (b"word/", "a Word document; write its text into rows of JSON"),
    (b".npy", "arrays of NumPy; give a file of rows"),
    (b"", f"a zip archive; {UNPACK}"),
)
PAGES = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<meta")


def described(beginning: bytes, name: str) -> str | None:
    """Say what a file is that holds no rows, and what to do, by its first bytes; None if it may hold rows.

    Args:
        beginning: the first 512 bytes or more, unpacked.
        name: of the file; one that ends in .txt is taken for prose, whatever is in it.
    """
    for offset, signature, text in SIGNATURES:
        if beginning.startswith(signature, offset):
            return text
    if beginning.startswith(b"PK\x03\x04"):
        return next(text for part, text in ZIPS if part in beginning)
    if beginning[:1] == b"\x80" and beginning[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return PYTORCH
    if _is_safetensors(beginning):
        return WEIGHTS
    start = beginning.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(PAGES):
        return "a web page, not the file; download the file itself (of GitHub and the hub its raw or resolve address)"
    if start.startswith((b"<?xml", b"<!--")):
        return "XML; write its text into rows of JSON"
    if PurePath(name).suffix.lower() == ".txt":
        if start.startswith((b"{", b"[")):
            return "JSON, but called .txt, as plain text is; rename it to .jsonl or .json"
        return "plain text; write one JSON object a line, with the keys of a row, into a .jsonl file"
    return None


def _is_safetensors(beginning: bytes) -> bool:
    if len(beginning) < 9 or beginning[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", beginning[:8])
    return bool(length < 1 << 30) and (b'"dtype"' in beginning or b'"__metadata__"' in beginning)
