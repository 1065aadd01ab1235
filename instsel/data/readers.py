"""Read files of rows as chunks of JSON with line numbers, without holding a whole file in memory."""

import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

from pyarrow import fs as pafs

from instsel.data.cells import cell_rows
from instsel.data.file_types import DAMAGE, FileType, damaged, file_type, open_text
from instsel.data.folders import DESCRIPTIONS, folder_files, has_data, is_dataset
from instsel.data.formats import MOST_BYTES
from instsel.data.hub import HUB, check_hub, hub_name, hub_rows
from instsel.data.json_text import json_rows
from instsel.data.row_shapes import RowLayout
from instsel.data.splits import split_of
from instsel.data.tables import arrow_rows, column_rows, parquet_length, parquet_rows, saved_length, saved_rows
from instsel.errors import InputError
from instsel.io.digests import unchanged
from instsel.io.uri import expand, resolve

# A chunk of ordinary rows is limited by their number long before that.
MOST_CHUNK_BYTES = 256 << 20
NO_BRACES = "; braces are no pattern here: write an entry for each"
# As datasets ends the names of the parts of a dataset.
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
MARK = b"\xef\xbb\xbf"
# A comma after an object does not change it, nor does the separator of JSON text sequences before it; no row begins
# with what begins a comment.
AROUND = b" \t\r\n\v\f\x1e,"
COMMENTS = (b"#", b"//")


@dataclass(frozen=True)
class SourceFile:
    """A file of rows, and how it is read.

    Attributes:
        uri: path or URI of a file, folder of a saved dataset, or hf:OWNER/NAME.
        layout: where its rows have what.
        source: name of its rows; None is the row's own, else `stem`.
        split: of a hub dataset, or a JSON object with an array of rows for each of several. None is the only one.
        limit: how many rows or lines are read, from the first; None is all.
        config: configuration of a hub dataset.
        revision: branch, tag or commit of a hub dataset.
        key: of the study file, for errors.
        name: of its rows, where they are not named by file, as in a dataset of many.
    """

    uri: str
    layout: RowLayout = field(default_factory=RowLayout)
    source: str | None = None
    split: str | None = "train"
    limit: int | None = None
    config: str | None = None
    revision: str | None = None
    key: str = ""
    name: str | None = None

    @property
    def stem(self) -> str:
        return self.name or SHARD.sub("", Path(self.uri.removeprefix(HUB)).name.split(".")[0])

    def to_json(self) -> str:
        """Return the file as a line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "SourceFile":
        """Return the file that `to_json` wrote."""
        raw = json.loads(text)
        return cls(**{**raw, "layout": RowLayout(**raw["layout"])})

    @property
    def is_hub(self) -> bool:
        return self.uri.startswith(HUB)


class SourceOptions(TypedDict, total=False):
    """How files are read: fields of `SourceFile` that are the same of all files of an entry."""

    layout: RowLayout
    source: str | None
    split: str | None
    limit: int | None
    config: str | None
    revision: str | None
    key: str


def source_files(uri: str, *, allow_empty: bool = False, **options: Any) -> list[SourceFile]:
    """Expand a path, glob, folder or hub id to files, sorted.

    A folder is what `folder_files` says. A glob matches files and saved datasets.

    Args:
        uri: path, URI, glob, folder, or hf:OWNER/NAME.
        allow_empty: files of no bytes are no error.
        options: of each `SourceFile`.

    Raises:
        InputError: nothing matches, a file is empty, or it is not clear which files of a folder are meant.
    """
    if uri.startswith(HUB):
        name = uri.removeprefix(HUB)
        if not name.startswith(("/", "./", "../", "~")) or name.startswith("//"):
            return [SourceFile(f"{HUB}{hub_name(uri)}", **options)]
        uri = name
    if options.get("revision") is not None:
        raise InputError(f"{uri} has no `revision`, as it is no hf:OWNER/NAME; remove `revision`")
    names = expand(uri, folders=True)
    is_glob = names != [uri]
    files = [file for name in names for file in _files_at(name, is_glob, options)]
    if not files:
        hint = "; of a bracket that is part of a name write [[]" if "[" in uri else ""
        hint += NO_BRACES if "{" in uri else ""
        raise InputError(f"no file matches {uri}; correct the path{hint}")
    for file in files:
        info = info_of(file.uri)
        if info.is_file and info.size == 0 and not allow_empty:
            raise InputError(f"file {file.uri} is empty; remove it or correct the path")
    return files


def read_chunks(file: SourceFile, rows: int) -> Iterator[tuple[int, list[bytes]]]:
    """Yield chunks: the number of the first row, and the rows as JSON in UTF-8.

    A file is read by what is in it, whatever its name: JSON lines, arrays, objects one after another, rows under a key,
    columns, CSV, TSV, Parquet, Arrow; texts in UTF-8, UTF-16 or UTF-32, packed by gzip, bzip2, xz or zstd.

    A chunk has `rows` rows, fewer if they are huge, and depends on the file alone. Of JSON lines every line counts,
    from 1, and a blank line or a comment is an empty row; of other files rows are counted, from 1, without a header.
    Only the beginning of a row above the size limit is read.

    Raises:
        InputError: the file has no rows that can be read, or is truncated or damaged.
    """
    with with_key(file.key), unchanged_file(file):
        yield from _chunks(file, rows)


@contextmanager
def with_key(key: str) -> Iterator[None]:
    """Put a key of the study file before the message of an InputError; nothing where it is empty."""
    try:
        yield
    except InputError as error:
        raise (InputError(f"{key}: {error}") if key else error) from error


def check_file(file: SourceFile, allow_empty: bool = False) -> None:
    """Look at the beginning of a file and at its first row, at the end of a Parquet file, or for a dataset on the hub.

    Raises:
        InputError: it cannot be read, or has no row.
    """
    if file.is_hub:
        check_hub(file.uri.removeprefix(HUB), file.split or "train", file.config, file.revision)
        return
    kind = file_type(file.uri, file.split) if info_of(file.uri).is_file else None
    # A file of a folder has a name where the folder's splits were told apart.
    keys = () if kind is None or kind.text is None else kind.text.path
    has_splits = file.name is not None or any(split_of(key) for key in keys)
    if file.split not in (None, "train") and not has_splits:
        raise InputError(f"{file.uri} has no split `{file.split}`, as it is not divided into splits; remove `split`")
    if kind is None:
        has_rows = saved_length(file.uri) > 0
    elif kind.binary == "parquet":
        has_rows = parquet_length(file.uri) > 0
    else:
        has_rows = any(line for _, lines in _chunks(file, 1) for line in lines)
    if not has_rows and not allow_empty:
        raise InputError(f"{file.uri} holds no row; remove it or correct the path")


def _files_at(uri: str, is_glob: bool, options: Mapping[str, Any]) -> list[SourceFile]:
    """Return the files that a path or URI without patterns stands for."""
    filesystem, path = resolve(uri)
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        if isinstance(filesystem, pafs.LocalFileSystem) and os.path.islink(path):
            raise InputError(f"{uri} is a link to {os.readlink(path)}, which does not exist; mend or remove the link")
        raise InputError(f"file {uri} does not exist; correct the path{NO_BRACES if '{' in uri else ''}")
    if info.type == pafs.FileType.Unknown:
        raise InputError(f"{uri} is neither a file nor a folder, and is read more than once; write it into a file")
    if info.type != pafs.FileType.Directory:
        if options.get("config") is not None:
            raise InputError(f"{uri} is a file and has no `config`; remove `config`")
        return [] if is_glob and info.base_name in DESCRIPTIONS else [SourceFile(uri, **options)]
    if is_glob and not is_dataset(uri):
        if has_data(uri):
            raise InputError(f"{uri} is a folder, which a pattern does not look into; write {uri}/* for its files")
        return []
    try:
        folder = folder_files(uri, options.get("split", "train"), options.get("config"))
    except InputError as error:
        raise InputError(f"{uri}: {error}") from error
    chosen = {**options, "config": None}
    if folder.uris == [uri.rstrip("/")]:
        return [SourceFile(folder.uris[0], **chosen)]
    return [replace(file, name=folder.name) for each in folder.uris for file in _files_at(each, True, chosen)]


def unchanged_file(file: SourceFile) -> AbstractContextManager[None]:
    """Return a block in which a file is read, and which ends with an error where a local one changed meanwhile."""
    if file.is_hub:
        return nullcontext()
    filesystem, path = resolve(file.uri)
    is_local_file = isinstance(filesystem, pafs.LocalFileSystem) and os.path.isfile(path)
    return unchanged(path) if is_local_file else nullcontext()


def info_of(uri: str) -> pafs.FileInfo:
    """Return what the file system says of a file or folder."""
    filesystem, path = resolve(uri)
    return filesystem.get_file_info(path)


def _chunks(file: SourceFile, rows: int) -> Iterator[tuple[int, list[bytes]]]:
    unit, lines = _lines(file)
    return chunked(file, unit, lines, rows)


def chunked(
    file: SourceFile,
    unit: str,
    lines: Iterator[bytes],
    rows: int,
    first: int = 1,
    is_cut_by_size: bool = True,
) -> Iterator[tuple[int, list[bytes]]]:
    """Yield chunks of rows: the number of the first, and the rows.

    Args:
        file: whose rows they are; its limit counts from here.
        unit: what is counted, line or row.
        lines: the rows.
        rows: of a chunk, at most.
        first: number of the first row.
        is_cut_by_size: whether a chunk ends after the row with which it has more than `MOST_CHUNK_BYTES`.

    Raises:
        InputError: the file is truncated or damaged.
    """
    size = 0
    chunk: list[bytes] = []
    try:
        for line in islice(lines, file.limit):
            chunk.append(line)
            size += len(line)
            if len(chunk) == rows or (is_cut_by_size and size > MOST_CHUNK_BYTES):
                yield first, chunk
                first, size, chunk = first + len(chunk), 0, []
    except DAMAGE as error:
        raise damaged(file.uri, unit, first + len(chunk) - 1, error) from error
    if chunk:
        yield first, chunk


def _lines(file: SourceFile) -> tuple[str, Iterator[bytes]]:
    """Return what is counted, lines or rows, and these."""
    if file.is_hub:
        return "row", hub_rows(file.uri.removeprefix(HUB), file.split or "train", file.config, file.revision)
    if not info_of(file.uri).is_file:
        return "row", saved_rows(file.uri)
    kind = file_type(file.uri, file.split)
    if kind.binary == "parquet":
        return "row", parquet_rows(file.uri)
    if kind.binary is not None:
        return "row", arrow_rows(file.uri)
    return _text_rows(file.uri, kind)


def _text_rows(uri: str, kind: FileType) -> tuple[str, Iterator[bytes]]:
    stream, text = open_text(uri, kind), kind.text
    if text is None or text.layout == "lines":
        return "line", json_lines(stream)
    if text.layout == "columns":
        return "row", column_rows(stream, uri)
    if text.cells is not None:
        return "row", cell_rows(stream, text.cells, uri)
    values = json_rows(stream, text.path, text.is_sole)
    return "row", (value.encode("utf-8", "surrogateescape")[: MOST_BYTES + 1] for value in values)


def json_lines(stream: io.BufferedReader, has_mark: bool = True) -> Iterator[bytes]:
    """Yield lines, empty where they are blank or a comment; of those above the size limit the beginning.

    Args:
        stream: lines in UTF-8.
        has_mark: a byte order mark before the first is left out.
    """
    line = stream.readline(MOST_BYTES + 1)
    line = line.removeprefix(MARK) if has_mark else line
    while line:
        if len(line) > MOST_BYTES:
            yield line
            while line and not line.endswith(b"\n"):
                line = stream.readline(MOST_BYTES)
        else:
            text = line.strip(AROUND)
            yield b"" if text.startswith(COMMENTS) else text
        line = stream.readline(MOST_BYTES + 1)
