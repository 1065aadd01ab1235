"""Rows of tables as JSON: Parquet, Arrow, saved datasets, and objects of columns."""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from instsel.data.file_types import DAMAGE, damaged, file_type
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.io.uri import resolve

BATCH_ROWS = 1024
# Of a batch, so that thousands of columns or long texts take no more memory than a few short ones.
BATCH_VALUES = 1 << 16
BATCH_BYTES = 32 << 20
# Columns as JSON are read whole.
MOST_COLUMN_BYTES = 256 << 20
# In which pandas keeps its index.
INDEX = re.compile(r"__index_level_\d+__")
STATE = "state.json"


def parquet_rows(uri: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Yield rows of a Parquet file; row groups before the first of them are not read.

    Args:
        uri: path or URI of the file.
        start: index of the first row.
        stop: index after the last one; None is the end of the file.

    Raises:
        InputError: two columns have one name.
    """
    filesystem, path = resolve(uri)
    file = pq.ParquetFile(filesystem.open_input_file(path))
    columns, meta = kept_columns(file.schema_arrow, uri), file.metadata
    groups = [meta.row_group(index) for index in range(meta.num_row_groups)]
    size = sum(group.total_byte_size for group in groups)
    rows = min(BATCH_ROWS, BATCH_VALUES // max(1, len(columns)), BATCH_BYTES * meta.num_rows // max(1, size))
    first, index = 0, 0
    while index < len(groups) and first + groups[index].num_rows <= start:
        first, index = first + groups[index].num_rows, index + 1
    for batch in file.iter_batches(batch_size=max(1, rows), row_groups=range(index, len(groups))):
        if stop is not None and first >= stop:
            return
        kept = batch.slice(max(0, start - first), None if stop is None else stop - max(first, start))
        yield from _batch_rows(kept.select(columns))
        first += len(batch)


def parquet_length(uri: str) -> int:
    """Return the number of rows of a Parquet file from its footer.

    Raises:
        InputError: it is damaged, or two columns have one name.
    """
    filesystem, path = resolve(uri)
    try:
        file = pq.ParquetFile(filesystem.open_input_file(path))
    except DAMAGE as error:
        raise damaged(uri, "row", 0, error) from error
    kept_columns(file.schema_arrow, uri)
    return int(file.metadata.num_rows)


def arrow_rows(uri: str) -> Iterator[bytes]:
    """Yield the rows of an Arrow file, or of a stream, as datasets writes it.

    Raises:
        InputError: it is another file, or two columns have one name.
    """
    schema, batches = _open_arrow(uri)
    columns = kept_columns(schema, uri)
    rows = max(1, min(BATCH_ROWS, BATCH_VALUES // max(1, len(columns))))
    for batch in batches:
        kept = batch.select(columns)
        for start in range(0, len(kept), rows):
            yield from _batch_rows(kept.slice(start, rows))


def saved_rows(uri: str) -> Iterator[bytes]:
    """Yield the rows of a folder that `Dataset.save_to_disk` wrote.

    Raises:
        InputError: a file of it is damaged.
    """
    for name in saved_files(uri):
        yield from arrow_rows(f"{uri.rstrip('/')}/{name}")


def saved_length(uri: str) -> int:
    """Return how many files of a saved dataset have rows, from the beginning of each.

    Raises:
        InputError: a file of it is another one, or damaged, or two columns have one name.
    """
    length = 0
    for name in saved_files(uri):
        file = f"{uri.rstrip('/')}/{name}"
        try:
            length += any(True for _ in arrow_rows(file))
        except DAMAGE as error:
            raise damaged(file, "row", 0, error) from error
    return length


def saved_files(uri: str) -> list[str]:
    """Return the names of the Arrow files of a saved dataset, in their order.

    Raises:
        InputError: its description is damaged.
    """
    try:
        state = json.loads(Folder.at(uri).read(STATE))
        return [file["filename"] for file in state["_data_files"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{uri}/{STATE} does not list the files of the dataset; save it again") from error


def column_rows(stream: io.BufferedIOBase, uri: str) -> Iterator[bytes]:
    """Yield the rows of a JSON object of columns, or of rows by name, as pandas and datasets write them.

    Raises:
        InputError: it is too large to be read whole, or its columns differ in length.
    """
    content = stream.read(MOST_COLUMN_BYTES + 1)
    if len(content) > MOST_COLUMN_BYTES:
        raise InputError(
            f"{uri}: an object of columns longer than {MOST_COLUMN_BYTES >> 20} MiB, which has to be read whole; write "
            "its rows as JSON lines"
        )
    table = json.loads(content.decode("utf-8-sig"))
    names, values = list(table), list(table.values())
    if {"columns", "data"} <= table.keys():
        # As pandas' to_json(orient="split").
        names, rows = table["columns"], table["data"]
    elif all(isinstance(value, list) for value in values):
        rows = _transposed(values, uri)
    elif all(name.isdigit() for value in values for name in value) and not all(name.isdigit() for name in names):
        # As pandas' to_json().
        rows = _transposed([list(value.values()) for value in values], uri)
    else:
        yield from (dump(value) for value in values)
        return
    yield from (dump(dict(zip(names, row, strict=True))) for row in rows)


def _transposed(columns: Sequence[Sequence[object]], uri: str) -> Iterator[tuple[object, ...]]:
    if len({len(column) for column in columns}) > 1:
        raise InputError(f"{uri}: columns of different lengths; write its rows as JSON lines")
    return zip(*columns, strict=True)


def dump(row: object) -> bytes:
    """Write a row as JSON: bytes as text if they are UTF-8, else as an object with their number; dates as text."""
    try:
        text = json.dumps(row, ensure_ascii=False, default=_plain)
    except TypeError:
        # Keys of a map that are no text.
        text = json.dumps(_with_text_keys(row), ensure_ascii=False, default=_plain)
    return text.encode("utf-8", "surrogatepass")


def kept_columns(schema: pa.Schema, uri: str) -> list[str]:
    """Return the names of columns without those of pandas' index.

    Raises:
        InputError: two columns have one name.
    """
    names = [name for name in schema.names if not INDEX.fullmatch(name)]
    if len(set(names)) < len(names):
        raise InputError(f"{uri}: two columns have one name; rename one")
    return names


def _open_arrow(uri: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    kind = file_type(uri).binary
    filesystem, path = resolve(uri)
    source = filesystem.open_input_file(path)
    if kind == "arrow file":
        file = pa.ipc.open_file(source)
        return file.schema, (file.get_batch(index) for index in range(file.num_record_batches))
    if kind != "arrow stream":
        raise InputError(f"{uri}: no Arrow file; fetch or save it again")
    stream = pa.ipc.open_stream(source)
    return stream.schema, iter(stream)


def _batch_rows(batch: pa.RecordBatch) -> Iterator[bytes]:
    for row in batch.to_pylist(maps_as_pydicts="strict"):
        yield dump(row)


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"bytes": len(value)}


def _with_text_keys(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(_plain(key)): _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, list) else value
