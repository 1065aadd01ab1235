"""Divide large files, so that many processes read one: byte ranges of JSON lines, row groups of Parquet.

Chunks are those of `read_chunks`, and depend on the file alone. Of JSON lines in plain UTF-8 only their places are
looked for, and whoever encodes a chunk reads its bytes. A Parquet file is read in parts, runs of row groups, each of
which has the chunks that begin in it. Other files (packed, arrays, CSV, ...) are read from the beginning to the end.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from instsel.data.file_types import DAMAGE, FileType, damaged, file_type
from instsel.data.readers import (
    MOST_CHUNK_BYTES,
    SourceFile,
    chunked,
    info_of,
    json_lines,
    read_chunks,
    unchanged_file,
    with_key,
)
from instsel.data.tables import parquet_rows
from instsel.errors import InputError
from instsel.io.uri import resolve

# A smaller file is not worth being opened for each of its chunks.
SMALLEST_DIVIDED = 4 << 20
# So many chunks a part of a Parquet file has at least.
PART_CHUNKS = 8
SCAN_BYTES = 4 << 20
NEWLINE = ord("\n")


@dataclass(frozen=True)
class Part:
    """Rows of a file that one process reads: all, or those of a Parquet file whose chunks begin between two rows.

    Attributes:
        start: index of the first row, that of a chunk.
        stop: index after the last row; None is the end of the file.
    """

    start: int = 0
    stop: int | None = None


WHOLE = Part()


@dataclass(frozen=True)
class Chunk:
    """Rows that follow one another in a file.

    Attributes:
        number: of the chunk in its file, from 0.
        first: number of its first row, from 1.
        rows: how many it has.
        lines: the rows as JSON in UTF-8; None where they are still to be read.
        start: offset of its first byte in the file.
        length: its bytes.
    """

    number: int
    first: int
    rows: int
    lines: list[bytes] | None = None
    start: int = 0
    length: int = 0


def divide(file: SourceFile, rows: int) -> list[Part]:
    """Return the parts of a file, in their order.

    Args:
        file: the file.
        rows: of a chunk.

    Raises:
        InputError: the file has no rows that can be read, or is damaged.
    """
    with with_key(file.key):
        kind = _kind(file)
        return [WHOLE] if kind is None or kind.binary != "parquet" else _parquet_parts(file, rows)


def read_part(file: SourceFile, part: Part, rows: int) -> Iterator[Chunk]:
    """Yield the chunks of a part; those of JSON lines without the lines, see `lines_of`.

    Raises:
        InputError: the file has no rows that can be read, is damaged, or was changed meanwhile.
    """
    in_ranges = part == WHOLE and has_ranges(file)
    if part == WHOLE and not in_ranges:
        for number, (first, lines) in enumerate(read_chunks(file, rows)):
            yield Chunk(number, first, len(lines), lines)
        return
    with with_key(file.key), unchanged_file(file):
        yield from _ranges(file, rows) if in_ranges else _parquet_chunks(file, part, rows)


def lines_of(file: SourceFile, chunk: Chunk) -> list[bytes]:
    """Return the rows of a chunk as JSON in UTF-8.

    Raises:
        InputError: the file cannot be read, or was changed since its chunks were looked for.
    """
    if chunk.lines is not None:
        return chunk.lines
    filesystem, path = resolve(file.uri)
    with with_key(file.key):
        try:
            with filesystem.open_input_file(path) as stream:
                stream.seek(chunk.start)
                content = stream.read(chunk.length)
        except DAMAGE as error:
            raise damaged(file.uri, "line", chunk.first - 1, error) from error
    if len(content) < chunk.length:
        raise _no_longer_same(file)
    stream = io.BufferedReader(io.BytesIO(content))
    return list(islice(json_lines(stream, has_mark=chunk.start == 0), chunk.rows))


def _no_longer_same(file: SourceFile) -> InputError:
    key = f"{file.key}: " if file.key else ""
    return InputError(f"{key}{file.uri} was changed while it was read; run again when it is complete")


def _kind(file: SourceFile) -> FileType | None:
    """Return what a file is; None for a dataset."""
    return None if file.is_hub or not info_of(file.uri).is_file else file_type(file.uri, file.split)


def has_ranges(file: SourceFile) -> bool:
    """Return whether the bytes of a file are those of its lines, and are many.

    Raises:
        InputError: the file has no rows that can be read.
    """
    with with_key(file.key):
        kind = _kind(file)
    if kind is None or kind.binary is not None or (kind.text is not None and kind.text.layout != "lines"):
        return False
    is_plain = not kind.packing and kind.encoding == "utf-8" and not kind.has_lone_cr
    return is_plain and (info_of(file.uri).size or 0) >= SMALLEST_DIVIDED


def _ranges(file: SourceFile, rows: int) -> Iterator[Chunk]:
    """Yield the chunks of JSON lines as byte ranges; from one that is huge on, with their lines."""
    filesystem, path = resolve(file.uri)
    limit = math.inf if file.limit is None else file.limit
    number, first, start = 0, 1, 0
    with filesystem.open_input_file(path) as stream:
        for end, lines in _ends(stream, rows):
            if first > limit:
                return
            if end - start > MOST_CHUNK_BYTES:
                break
            yield Chunk(number, first, int(min(lines, limit - first + 1)), None, start, end - start)
            number, first, start = number + 1, first + lines, end
        else:
            return
    # The same chunks as `read_chunks` has there, which are cut by their size too.
    left = None if file.limit is None else file.limit - first + 1
    with filesystem.open_input_file(path) as stream:
        stream.seek(start)
        rest = json_lines(io.BufferedReader(stream), has_mark=start == 0)
        for more, (line, chunk) in enumerate(chunked(replace(file, limit=left), "line", rest, rows, first)):
            yield Chunk(number + more, line, len(chunk), chunk)


def _ends(stream: pa.NativeFile, rows: int) -> Iterator[tuple[int, int]]:
    """Yield the offset after every `rows`-th line, and the lines since the last one; at the end those that are left."""
    position, lines, last = 0, 0, 0
    while block := stream.read(SCAN_BYTES):
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == NEWLINE)
        for end in ends[rows - 1 - lines :: rows].tolist():
            last = position + end + 1
            yield last, rows
        lines = (lines + len(ends)) % rows
        position += len(block)
        has_end = block.endswith(b"\n")
    if position > last:
        yield position, lines + (not has_end)


def _parquet_parts(file: SourceFile, rows: int) -> list[Part]:
    """Return runs of row groups with at least `PART_CHUNKS` chunks, whose bounds are those of chunks."""
    filesystem, path = resolve(file.uri)
    try:
        meta = pq.ParquetFile(filesystem.open_input_file(path)).metadata
    except DAMAGE as error:
        raise damaged(file.uri, "row", 0, error) from error
    groups = [meta.row_group(index) for index in range(meta.num_row_groups)]
    if any(group.total_byte_size * rows > MOST_CHUNK_BYTES * group.num_rows for group in groups):
        # Chunks are cut by their size, too, so that where one begins depends on all before it.
        return [WHOLE]
    total = meta.num_rows if file.limit is None else min(meta.num_rows, file.limit)
    bounds, row = [0], 0
    for group in groups:
        row += group.num_rows
        bound = math.ceil(row / rows) * rows
        if bound >= total:
            break
        if bound - bounds[-1] >= PART_CHUNKS * rows:
            bounds.append(bound)
    return [Part(start, stop) for start, stop in zip(bounds, [*bounds[1:], total], strict=True)]


def _parquet_chunks(file: SourceFile, part: Part, rows: int) -> Iterator[Chunk]:
    lines: Iterator[bytes] = parquet_rows(file.uri, part.start, part.stop)
    without_limit = replace(file, limit=None)
    for first, chunk in chunked(without_limit, "row", lines, rows, part.start + 1, is_cut_by_size=False):
        yield Chunk((first - 1) // rows, first, len(chunk), chunk)
