"""A folder on a local path or behind a pyarrow/fsspec URI, with commits that are whole or not there at all."""

import errno
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from instsel.errors import InputError, StudyError

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


def resolve(uri: str | Path) -> tuple[pafs.FileSystem, str]:
    """File system and path of a local path or URI.

    Raises:
        InputError: the URI's scheme is unknown, its package is not installed, or what it names does not answer.
    """
    text = str(uri)
    if "://" not in text:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(text))
    try:
        return pafs.FileSystem.from_uri(text)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    except OSError as error:
        raise InputError(f"{text}: {error}; correct it or make it reachable") from error
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(text)
    except (ImportError, ValueError) as error:
        raise InputError(f"{text}: {error}; use a local path or a URI that pyarrow or fsspec knows") from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


def under_root(root: str, place: str) -> str:
    """A pool or target place: URIs, hub ids and absolute paths as they are, others below `root`; ~ is home."""
    if "://" in place or place.startswith("hf:"):
        return place
    place = os.path.expanduser(place)
    if os.path.isabs(place):
        return place
    return f"{os.path.expanduser(root).rstrip('/')}/{place}"


def expand(pattern: str) -> list[str]:
    """Files that a path, URI or glob (in its last part) stands for, sorted; a path without a glob as it is."""
    if not any(sign in pattern for sign in "*?["):
        return [pattern]
    parent, _, last = pattern.rpartition("/")
    filesystem, path = resolve(parent or ".")
    infos = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    names = sorted(info.base_name for info in infos if info.type != pafs.FileType.Directory)
    return [f"{parent}/{name}" if parent else name for name in names if fnmatch(name, last)]


@contextmanager
def space_errors(place: str) -> Iterator[None]:
    """Turn a full disk into a StudyError that says where, and that earlier work stays."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise StudyError(
            f"no space left while writing {place}; everything finished before stays valid: "
            "free some space and run the same command again"
        ) from error


@dataclass(frozen=True)
class Folder:
    """A folder: names inside it are read and written whole.

    A write goes to a temporary name first and is renamed, on object stores too, where a stream that is closed after an
    error would leave half an object in place of the earlier one. Names that start with a dot are not listed.
    """

    filesystem: pafs.FileSystem
    path: str

    @classmethod
    def at(cls, uri: str | Path) -> "Folder":
        """The folder at a local path or URI; it need not exist yet."""
        return cls(*resolve(uri))

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.filesystem, f"{self.path}/{name}")

    def __str__(self) -> str:
        return self.path

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def fetch(self) -> Path:
        """The folder on this machine: itself where it is local, else a copy in a temporary folder."""
        if self.is_local:
            return Path(self.path)
        copy = tempfile.mkdtemp(prefix="instsel-")
        pafs.copy_files(
            self.path, copy, source_filesystem=self.filesystem, destination_filesystem=pafs.LocalFileSystem()
        )
        return Path(copy)

    def exists(self, name: str = "") -> bool:
        place = f"{self.path}/{name}" if name else self.path
        return self.filesystem.get_file_info(place).type != pafs.FileType.NotFound

    def names(self) -> list[str]:
        """Sorted names of the files and folders here, without hidden ones; empty if the folder is not there."""
        infos = self.filesystem.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in infos if not info.base_name.startswith("."))

    def size(self) -> int:
        """Bytes of all files below."""
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=True)
        return sum(info.size or 0 for info in self.filesystem.get_file_info(selector) if info.is_file)

    def create(self) -> "Folder":
        with space_errors(self.path):
            self.filesystem.create_dir(self.path, recursive=True)
        return self

    def remove(self) -> None:
        """Delete the folder and everything in it; nothing happens if it is not there."""
        if self.exists():
            self.filesystem.delete_dir(self.path)

    def read(self, name: str) -> bytes:
        with self.filesystem.open_input_file(f"{self.path}/{name}") as stream:
            return stream.read()

    @contextmanager
    def writer(self, name: str) -> Iterator[pa.NativeFile]:
        """An output stream whose file appears under `name` when the block ends without an error."""
        final = f"{self.path}/{name}"
        with space_errors(final):
            self.create()
            part = f"{self.path}/.{name}.{uuid.uuid4().hex[:8]}.part"
            try:
                with self.filesystem.open_output_stream(part) as stream:
                    yield stream
                self.filesystem.move(part, final)
            except BaseException:
                with suppress(OSError):
                    self.filesystem.delete_file(part)
                raise

    def write(self, name: str, data: bytes) -> None:
        with self.writer(name) as stream:
            stream.write(data)

    def create_once(self, name: str, data: bytes) -> None:
        """Write a small file if it is not there; of several at the same time one wins, on a local folder for sure."""
        self.create()
        if not self.is_local:
            self.write(name, data)
            return
        with suppress(FileExistsError), tempfile.NamedTemporaryFile(dir=self.path, prefix=".", suffix=".part") as part:
            part.write(data)
            part.flush()
            os.link(part.name, f"{self.path}/{name}")

    def read_json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode())

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a table as Parquet (`.parquet`) or as an uncompressed, memory-mappable Arrow file (`.arrow`)."""
        with self.writer(name) as stream:
            if name.endswith(".parquet"):
                pq.write_table(table, stream)
                return
            with pa.ipc.new_file(stream, table.schema) as writer:
                writer.write_table(table)

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read what `write_table` wrote; a local Arrow file is memory-mapped."""
        place = f"{self.path}/{name}"
        if name.endswith(".parquet"):
            with self.filesystem.open_input_file(place) as stream:
                return pq.read_table(stream, columns=columns)
        source = pa.memory_map(place) if self.is_local else self.filesystem.open_input_file(place)
        table = pa.ipc.open_file(source).read_all()
        return table.select(columns) if columns else table

    def clean(self) -> None:
        """Delete what a killed run left half written."""
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=True)
        for info in self.filesystem.get_file_info(selector):
            if info.is_file and info.base_name.startswith(".") and info.base_name.endswith(".part"):
                self.filesystem.delete_file(info.path)
