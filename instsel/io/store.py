"""A folder on a local path or behind a pyarrow/fsspec URI, with commits that are whole or not there at all."""

import errno
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from instsel.errors import InputError, StudyError
from instsel.io.object_store import S3
from instsel.io.retry import retrying
from instsel.io.uri import resolve

OBJECT_STORES = {"s3", "gcs", "abfs"}
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


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


@contextmanager
def undamaged(place: str) -> Iterator[None]:
    """Name a file whose content is not what it should be."""
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{place} is damaged ({str(error).splitlines()[0]}); delete it, with all of its stage if it is of one, and "
            "run the study again"
        ) from error


@dataclass(frozen=True)
class Folder:
    """A folder: names inside it are read and written whole.

    A file is written under a temporary name, which starts with a dot, and renamed. In an object store, where a rename
    is a copy, it is written on this machine and uploaded under its own name: it is there when its upload is complete,
    and until then what was there before. Names that start with a dot are not listed.

    Behind `s3://` every method waits for a server that is away, as `patience.retrying` has it.

    Attributes:
        filesystem: what `path` is a path of.
        path: absolute; of an object store it starts with the bucket.
        before: what a URI has before the path, such as `s3://`; empty on a local path. As text, which is for showing,
            a folder is its URI without an account, options or percent signs.
    """

    filesystem: pafs.FileSystem
    path: str
    before: str = ""

    @classmethod
    def at(cls, uri: str | Path) -> "Folder":
        """The folder at a local path or URI; it need not exist yet."""
        filesystem, path = resolve(uri)
        if isinstance(filesystem, pafs.LocalFileSystem):
            return cls(filesystem, path)
        text = str(uri).rstrip("/")
        whole = path and text.endswith(path)
        return cls(filesystem, path, text.removesuffix(path) if whole else str(uri).partition("://")[0] + "://")

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.filesystem, f"{self.path}/{name}", self.before)

    @property
    def parent(self) -> "Folder":
        return Folder(self.filesystem, self.path.rpartition("/")[0], self.before)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.before}{self.path}"

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    @property
    def is_object_store(self) -> bool:
        return self.filesystem.type_name in OBJECT_STORES

    def retrying_filesystem(self) -> pafs.FileSystem:
        """The file system for code that is not ours, which cannot wait for a server by itself."""
        return self.filesystem.retrying_filesystem() if isinstance(self.filesystem, S3) else self.filesystem

    @contextmanager
    def local(self) -> Iterator[Path]:
        """The folder on this machine: itself where it is local, else a copy that is gone when the block ends."""
        if self.is_local:
            yield Path(self.path)
            return
        here = {"destination_filesystem": pafs.LocalFileSystem()}
        with tempfile.TemporaryDirectory(prefix="instsel-") as copy:
            with space_errors(copy):
                retrying(str(self), lambda: pafs.copy_files(self.path, copy, source_filesystem=self.filesystem, **here))
            yield Path(copy)

    def exists(self, name: str = "") -> bool:
        place = f"{self.path}/{name}" if name else self.path
        return self.filesystem.get_file_info(place).type != pafs.FileType.NotFound

    def is_file(self, name: str) -> bool:
        return self.filesystem.get_file_info(f"{self.path}/{name}").is_file

    def names(self) -> list[str]:
        """Sorted names of the files and folders here, without hidden ones; empty if the folder is not there."""
        infos = self.filesystem.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in infos if not info.base_name.startswith("."))

    def size(self) -> int:
        """Bytes of all files below."""
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=True)
        return sum(info.size or 0 for info in self.filesystem.get_file_info(selector) if info.is_file)

    def create(self) -> "Folder":
        """Make the folder; an object store has none, and gets no object in its place."""
        if not self.is_object_store:
            with space_errors(str(self)):
                self.filesystem.create_dir(self.path, recursive=True)
        return self

    def remove(self) -> None:
        """Delete the folder and everything in it; nothing happens if it is not there."""
        if self.exists():
            self.filesystem.delete_dir(self.path)

    def delete(self, name: str) -> None:
        """Delete a file; nothing happens if it is not there."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self.path}/{name}")

    def read(self, name: str) -> bytes:
        with self.filesystem.open_input_file(f"{self.path}/{name}") as stream:
            return stream.read()

    @contextmanager
    def writer(self, name: str) -> Iterator[pa.NativeFile]:
        """An output stream whose file appears under `name` when the block ends without an error."""
        with space_errors(f"{self}/{name}"):
            with self._uploaded(name) if self.is_object_store else self._renamed(name) as stream:
                yield stream

    def put(self, name: str, file: Path) -> None:
        """Copy a file of this machine here."""
        if self.is_object_store:
            retrying(f"{self}/{name}", lambda: self._upload(name, file))
            return
        with self.writer(name) as stream, file.open("rb") as content:
            stream.upload(content)

    @contextmanager
    def _renamed(self, name: str) -> Iterator[pa.NativeFile]:
        self.create()
        part = f"{self.path}/.{name}.{uuid.uuid4().hex[:8]}.part"
        try:
            with self.filesystem.open_output_stream(part) as stream:
                yield stream
            self.filesystem.move(part, f"{self.path}/{name}")
        except BaseException:
            with suppress(OSError):
                self.filesystem.delete_file(part)
            raise

    @contextmanager
    def _uploaded(self, name: str) -> Iterator[pa.NativeFile]:
        """A file on this machine first: a stream into a store completes its object even if it is closed in error."""
        with tempfile.NamedTemporaryFile(prefix="instsel-") as spool:
            with pa.OSFile(spool.name, "wb") as stream:
                yield stream
            self.put(name, Path(spool.name))

    def _upload(self, name: str, file: Path) -> None:
        # At one go, so that nothing comes between; `pyarrow.fs.copy_files` would not say if the end of it failed.
        with pa.memory_map(str(file)) as source:
            stream = self.filesystem.open_output_stream(f"{self.path}/{name}")
            stream.write(source.read_buffer())
            stream.close()

    def write(self, name: str, data: bytes) -> None:
        with self.writer(name) as stream:
            stream.write(data)

    def create_once(self, name: str, data: bytes) -> None:
        """Write a small file if it is not there; of several at the same time one wins, on a local folder for sure.

        An object store could tell the second writer that it is late (`If-None-Match: *`), but pyarrow does not ask it.
        """
        self.create()
        if not self.is_local:
            if not self.exists(name):
                self.write(name, data)
            return
        with suppress(FileExistsError), tempfile.NamedTemporaryFile(dir=self.path, prefix=".", suffix=".part") as part:
            part.write(data)
            part.flush()
            os.link(part.name, f"{self.path}/{name}")

    def read_json(self, name: str) -> Any:
        """The value in a JSON file.

        Raises:
            InputError: it holds no JSON.
        """
        with undamaged(f"{self}/{name}"):
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
        """Read what `write_table` wrote; a local Arrow file is memory-mapped.

        Raises:
            InputError: it is cut off, or no such file.
        """
        place = f"{self.path}/{name}"
        with undamaged(f"{self}/{name}"):
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
