"""Tell a file by its first bytes, in one place: how it is packed, its encoding, its type, or why it has no rows."""

import bz2
import codecs
import csv
import gzip
import io
import lzma
import shlex
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, TypeVar

import pyarrow as pa
from pyarrow import fs as pafs

from instsel.data.signatures import described
from instsel.data.text_types import TextType, text_type
from instsel.errors import InputError
from instsel.io.uri import resolve

T = TypeVar("T")

BEGINNING = 1 << 16
# Where a first row is longer. What is longer than the last is rejected.
LONGER_BEGINNINGS = (1 << 20, 17 << 20)
READ_AHEAD = 4 << 20
PIECE = 1 << 17
SMALL_READ = 1 << 13
# Invalid bytes, and values without a Python type, raise ValueError, OverflowError or KeyError.
DAMAGE = (EOFError, KeyError, OSError, OverflowError, ValueError, csv.Error, lzma.LZMAError, zlib.error)

Binary = Literal["parquet", "arrow file", "arrow stream"]
PACKINGS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\0": "xz",
    # xz --format=lzma
    b"\x5d\0\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    # A frame to skip, which comes first where zstd worked in parallel.
    b"\x50\x2a\x4d\x18": "zstd",
}
PACKED_ENDINGS = {".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd"}
UNPACKERS: dict[str, Callable[[Any], Any]] = {
    "gzip": lambda stream: gzip.GzipFile(fileobj=stream, mode="rb"),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zstd": lambda stream: _SmallReads(pa.input_stream(stream, compression="zstd")),
}
MOST_PACKINGS = 3
BINARIES: dict[bytes, Binary] = {b"PAR1": "parquet", b"ARROW1\0\0": "arrow file", b"\xff\xff\xff\xff": "arrow stream"}
# UTF-32 first: its mark begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Of the bytes of UTF-16, in texts whose letters are mostly Latin: every second is a zero, and none of the others.
MOST_ZEROS, FEWEST_ZEROS = 0.2, 0.02
# So many lines that are not UTF-8 are no accident.
BAD_LINES = 3
USUAL_ENCODING = "WINDOWS-1252"


@dataclass(frozen=True)
class FileType:
    """What a file is.

    Attributes:
        packing: names of the programs that packed it, the last one first.
        binary: its type, if it is no text.
        encoding: of a text.
        has_lone_cr: lines of a text end with a carriage return alone.
        text: how rows are laid out in a text.
    """

    packing: tuple[str, ...] = ()
    binary: Binary | None = None
    encoding: str = "utf-8"
    has_lone_cr: bool = False
    text: TextType | None = None


@dataclass(frozen=True)
class _Beginning:
    """The first bytes of a file, unpacked; `is_whole` if that is all, `may_grow` if there are more behind them."""

    content: bytes
    is_whole: bool
    may_grow: bool


def file_type(uri: str, split: str | None = None) -> FileType:
    """Tell what a file is by its first bytes.

    Args:
        uri: path or URI of a file.
        split: which array has the rows in a JSON object that has several, by split.

    Raises:
        InputError: it has no rows that can be read; the message says what it is and what to do.
    """
    filesystem, path = resolve(uri)
    try:
        return _type(filesystem, path, split)
    except InputError as error:
        raise InputError(f"{uri}: {error}") from error
    except DAMAGE as error:
        raise damaged(uri, "line", 0, error) from error


def damaged(uri: str, unit: str, number: int, error: Exception) -> InputError:
    """Return the error of a file that cannot be read after so many lines or rows."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"file {uri} does not exist; correct the path")
    if isinstance(error, PermissionError):
        return InputError(f"{uri} may not be read ({error}); change its permissions")
    # What is no JSON or CSV was perhaps written so by hand.
    is_text = isinstance(error, csv.Error) or type(error) is ValueError
    more = ", or correct it there" if is_text else ""
    return InputError(f"{uri}: damaged after {unit} {number} ({error}); fetch or pack the file again{more}")


def open_text(uri: str, kind: FileType) -> io.BufferedReader:
    """Open a text: unpacked, in UTF-8; where JSON lines end with a carriage return alone, with line feeds."""
    filesystem, path = resolve(uri)
    is_json = kind.text is not None and kind.text.layout != "csv"
    change = _change(kind.encoding, kind.has_lone_cr and is_json)
    return io.BufferedReader(_Pieces(_unpacked(filesystem, path, kind.packing, READ_AHEAD), change), PIECE)


def _type(filesystem: pafs.FileSystem, path: str, split: str | None) -> FileType:
    packing: tuple[str, ...] = ()
    while True:
        start = _beginning(filesystem, path, packing, BEGINNING)
        packer = _by_magic(PACKINGS, start.content)
        if packer is None or len(packing) == MOST_PACKINGS:
            break
        packing = (*packing, packer)
    binary = _by_magic(BINARIES, start.content)
    if binary is not None:
        if packing:
            raise InputError(f"{binary.capitalize()} packed by {packing[-1]}, which cannot be read; unpack it")
        return FileType(packing, binary)
    name = _unpacked_name(path)
    reason = described(start.content, name)
    if reason is not None:
        raise InputError(reason)
    encoding = _encoding(start, name)
    for size in (BEGINNING, *LONGER_BEGINNINGS):
        if size > BEGINNING:
            start = _beginning(filesystem, path, packing, size)
        text = _change(encoding, False)(start.content, start.is_whole).decode("utf-8", "surrogateescape")
        text = text.removeprefix("\ufeff")
        has_lone_cr = "\r" in text and "\n" not in text
        may_grow = start.may_grow and size < LONGER_BEGINNINGS[-1]
        kind = text_type(text.replace("\r", "\n") if has_lone_cr else text, start.is_whole, name, split, may_grow)
        if kind is not None:
            break
    return FileType(packing, None, encoding, has_lone_cr, kind)


def _by_magic(kinds: Mapping[bytes, T], content: bytes) -> T | None:
    return next((kind for magic, kind in kinds.items() if content.startswith(magic)), None)


def _beginning(filesystem: pafs.FileSystem, path: str, packing: Sequence[str], size: int) -> _Beginning:
    stream = _unpacked(filesystem, path, packing, size)
    content = bytearray()
    while len(content) <= size:
        try:
            piece = stream.read1(size + 1 - len(content))
        except DAMAGE:
            if not content:
                raise
            # It is an error later, after the rows that come before it.
            return _Beginning(bytes(content), is_whole=False, may_grow=False)
        if not piece:
            return _Beginning(bytes(content), is_whole=True, may_grow=False)
        content += piece
    return _Beginning(bytes(content[:size]), is_whole=False, may_grow=True)


def _unpacked(filesystem: pafs.FileSystem, path: str, packing: Sequence[str], read_ahead: int) -> Any:
    stream: Any = pa.input_stream(filesystem.open_input_file(path), compression=None, buffer_size=read_ahead)
    for packer in packing:
        stream = UNPACKERS[packer](stream)
    return stream


def _unpacked_name(path: str) -> str:
    """Return the name of a file without endings of packers."""
    name = PurePath(path)
    while name.suffix.lower() in PACKED_ENDINGS:
        name = name.with_suffix("")
    return name.name


def _encoding(start: _Beginning, name: str) -> str:
    """Return the encoding of a text.

    Raises:
        InputError: it is none that is read, or no text.
    """
    content = start.content
    mark = _by_magic(MARKS, content)
    if mark is not None:
        return mark
    first, second = (content[start::2].count(0) / max(1, len(content) // 2) for start in (0, 1))
    for encoding, few, many in (("utf-16-le", first, second), ("utf-16-be", second, first)):
        if few < FEWEST_ZEROS and many > MOST_ZEROS and _is_encoded(content, encoding):
            return encoding
    if 0 in content and content.lstrip()[:1] not in (b"[", b"{"):
        raise InputError("binary data of an unknown kind; give JSON lines, a JSON array, CSV, Parquet or Arrow")
    if not _is_encoded(content, "utf-8"):
        _check_utf8(start, name)
    return "utf-8"


def _check_utf8(start: _Beginning, name: str) -> None:
    """Raise an InputError for a text in another encoding; not for a few bad lines, which are rejected as rows."""
    import chardet

    content = start.content
    lines = [line for line in content.split(b"\n") if line.strip()]
    if not start.is_whole and len(lines) > 1:
        # It may be cut.
        lines.pop()
    text = content.decode("utf-8", "surrogateescape")
    invalid = sum("\udc80" <= char <= "\udcff" for char in text)
    bad = sum(not _is_encoded(line, "utf-8") for line in lines)
    # A text in another encoding has hardly a valid sequence by accident.
    if invalid <= sum(char > "\x7f" for char in text) - invalid or (bad < BAD_LINES and bad * 2 <= len(lines)):
        return
    guess = chardet.detect(content)["encoding"]
    guess = USUAL_ENCODING if guess is None or guess.lower() in ("ascii", "utf-8") else guess
    source, target = shlex.quote(name), shlex.quote(f"utf8-{name}")
    raise InputError(
        f"not in UTF-8, but by the look of it in {guess}; convert it: iconv -f {guess} -t UTF-8 {source} > {target}"
    )


def _is_encoded(text: bytes, encoding: str) -> bool:
    """Whether a text, perhaps cut, is in an encoding."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(text)
    except UnicodeDecodeError:
        return False
    return True


def _change(encoding: str, has_lone_cr: bool) -> Callable[[bytes, bool], bytes]:
    """Return what turns blocks of a text, of which it is told the last one, into UTF-8."""
    if encoding == "utf-8":
        return _with_line_feeds if has_lone_cr else _unchanged
    decoder = codecs.getincrementaldecoder(encoding)()

    def change(block: bytes, is_last: bool) -> bytes:
        text = decoder.decode(block, is_last).encode()
        return _with_line_feeds(text, is_last) if has_lone_cr else text

    return change


def _unchanged(block: bytes, is_last: bool) -> bytes:
    return block


def _with_line_feeds(block: bytes, is_last: bool) -> bytes:
    return block.replace(b"\r", b"\n")


class _SmallReads(io.BufferedIOBase):
    """A stream of pyarrow in small reads, as one that reaches a damage gives nothing of what comes before it."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        content: bytes = self._stream.read() if size is None or size < 0 else self.read1(size)
        return content

    def read1(self, size: int = -1, /) -> bytes:
        content: bytes = self._stream.read(SMALL_READ if size < 0 else min(size, SMALL_READ))
        return content


class _Pieces(io.RawIOBase):
    """What a stream gives piece by piece, changed, so that all that comes before a damage is read."""

    def __init__(self, source: Any, change: Callable[[bytes, bool], bytes]) -> None:
        self._source, self._change = source, change
        self._pending, self._has_ended = b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending and not self._has_ended:
            piece = self._source.read1(PIECE)
            self._has_ended = not piece
            self._pending = self._change(piece, self._has_ended)
        piece, self._pending = self._pending[: len(buffer)], self._pending[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)
