"""Read files of rows as chunks of JSON lines with line numbers, without holding a whole file in memory."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from instsel.data.formats import MOST_BYTES
from instsel.data.row_shapes import RowLayout
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.io.uri import expand, resolve

TEXT_ENDINGS = (".jsonl", ".json", ".ndjson")
HUB = "hf:"
READ_AHEAD = 4 << 20
# Invalid bytes, and values without a Python type, raise ValueError or OverflowError.
DAMAGE = (EOFError, OSError, OverflowError, ValueError, zlib.error)
# A chunk of ordinary rows is limited by their number long before that.
MOST_CHUNK_BYTES = 256 << 20


@dataclass(frozen=True)
class SourceFile:
    """A file (or hub dataset) of rows: URI, where rows have what, source's name, split, maximum number of rows."""

    uri: str
    layout: RowLayout = field(default_factory=RowLayout)
    source: str | None = None
    split: str = "train"
    limit: int | None = None

    @property
    def stem(self) -> str:
        return Path(self.uri.removeprefix(HUB)).name.split(".")[0]

    def to_json(self) -> str:
        """Return the file as a line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "SourceFile":
        """Return the file that `to_json` wrote."""
        raw = json.loads(text)
        return cls(**{**raw, "layout": RowLayout(**raw["layout"])})


class SourceOptions(TypedDict, total=False):
    """How files are read: fields of `SourceFile` that are the same of all files of an entry."""

    layout: RowLayout
    source: str | None
    split: str
    limit: int | None


def source_files(uri: str, **options: Any) -> list[SourceFile]:
    """Expand a path, glob, dataset folder or hub id to files, sorted.

    Args:
        uri: path, URI, glob, folder of a saved dataset, or hf:OWNER/NAME.
        options: of each `SourceFile`.

    Raises:
        InputError: nothing matches, or a folder is not a saved dataset.
    """
    if uri.startswith(HUB):
        return [SourceFile(uri, **options)]
    names = expand(uri)
    if not names:
        raise InputError(f"no file matches {uri}; correct the path")
    for name in names:
        filesystem, path = resolve(name)
        info = filesystem.get_file_info(path)
        if info.type.name == "NotFound":
            raise InputError(f"file {name} does not exist; correct the path")
        if info.is_file and info.size == 0:
            raise InputError(f"file {name} is empty; remove it or correct the path")
        if info.is_file:
            continue
        if filesystem.get_file_info(f"{path}/dataset_dict.json").is_file:
            raise InputError(f"{name} holds several splits; give the folder of one of them")
        if not filesystem.get_file_info(f"{path}/state.json").is_file:
            raise InputError(f"{name} is a folder but not a saved dataset; write {name.rstrip('/')}/*.jsonl or similar")
    return [SourceFile(name, **options) for name in names]


def read_chunks(file: SourceFile, rows: int) -> Iterator[tuple[int, list[bytes]]]:
    """Yield chunks: the number of the first line, and the lines as JSON in UTF-8.

    A chunk has `rows` lines, fewer if they are huge. Lines of text files are counted from 1, including blank ones; rows
    of Parquet files and datasets count as lines. Only the beginning of a line above the size limit is read.

    Raises:
        InputError: the file's extension is unknown, or the file is truncated or damaged.
    """
    first, size = 1, 0
    chunk: list[bytes] = []
    for line in islice(_lines(file), file.limit):
        chunk.append(line)
        size += len(line)
        if len(chunk) == rows or size > MOST_CHUNK_BYTES:
            yield first, chunk
            first, size, chunk = first + len(chunk), 0, []
    if chunk:
        yield first, chunk


def _lines(file: SourceFile) -> Iterator[bytes]:
    if file.uri.startswith(HUB):
        return _hub_lines(file)
    filesystem, path = resolve(file.uri)
    if not filesystem.get_file_info(path).is_file:
        return _saved_lines(file.uri)
    name = path.lower()
    if name.endswith(".parquet"):
        return _parquet_lines(filesystem.open_input_file(path), file.uri)
    packed = name.removesuffix(".gz").removesuffix(".zst")
    if not packed.endswith(TEXT_ENDINGS):
        raise InputError(f"{file.uri}: unknown extension; files are .jsonl (or .json, .ndjson; .gz, .zst) or .parquet")
    packing = "zstd" if name.endswith(".zst") else None
    stream: Any = pa.input_stream(filesystem.open_input_file(path), compression=packing, buffer_size=READ_AHEAD)
    unpacked = gzip.GzipFile(fileobj=stream) if name.endswith(".gz") else io.BufferedReader(stream)
    return _text_lines(unpacked, file.uri)


def _text_lines(stream: io.BufferedIOBase, uri: str) -> Iterator[bytes]:
    number = 0
    try:
        while line := stream.readline(MOST_BYTES + 1):
            number += 1
            yield line.strip() if len(line) <= MOST_BYTES else line
            while line and not line.endswith(b"\n"):
                line = stream.readline(MOST_BYTES)
    except DAMAGE as error:
        raise _damaged(uri, number, error) from error


def _parquet_lines(source: pa.NativeFile, uri: str) -> Iterator[bytes]:
    number = 0
    try:
        for batch in pq.ParquetFile(source).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield _dump(row)
    except DAMAGE as error:
        raise _damaged(uri, number, error) from error


def _damaged(uri: str, number: int, error: Exception) -> InputError:
    return InputError(f"{uri}: damaged after line {number} ({error}); fetch or pack the file again")


def _saved_lines(uri: str) -> Iterator[bytes]:
    from datasets import load_from_disk

    with Folder.at(uri).local() as folder:
        yield from _rows_of(load_from_disk(str(folder)).to_iterable_dataset())


def _hub_lines(file: SourceFile) -> Iterator[bytes]:
    from datasets import load_dataset

    yield from _rows_of(load_dataset(file.uri.removeprefix(HUB), split=file.split, streaming=True))


def _rows_of(dataset: Any) -> Iterator[bytes]:
    # Decoding would open the files and URLs in image and audio columns.
    rows = dataset.decode(False) if dataset.features else dataset
    yield from (_dump(row) for row in rows)


def _dump(row: Mapping[str, object]) -> bytes:
    return json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
