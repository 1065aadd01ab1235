"""Folders on a local path or behind a pyarrow/fsspec URI, with atomic writes."""

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
def space_errors(uri: str) -> Iterator[None]:
    """Turn a full disk into a StudyError that names the location."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise StudyError(
            f"no space left while writing {uri}; everything finished before stays valid: "
            "free some space and run the same command again"
        ) from error


@contextmanager
def undamaged(uri: str) -> Iterator[None]:
    """Turn errors of parsers into an InputError that names the damaged file."""
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{uri} is damaged ({str(error).splitlines()[0]}); delete it (the whole folder of its stage if it "
            "belongs to one) and run the study again"
        ) from error


@dataclass(frozen=True)
class Folder:
    """A folder whose files are written atomically.

    A file is written under a temporary name, which starts with a dot, and renamed. In an object store, where a rename
    is a copy, it is written locally and uploaded under its final name: it appears when the upload is complete, and
    until then the previous content stays. Names that start with a dot are not listed.

    With `s3://`, every method retries while the server is unavailable (`io.retry.retrying`).

    Attributes:
        filesystem: of `path`.
        path: absolute; in an object store it starts with the bucket.
        prefix: part of a URI before the path, such as `s3://`; empty for a local path. As text, a folder is its URI
            without account, options or percent signs; it is for display.
    """

    filesystem: pafs.FileSystem
    path: str
    prefix: str = ""

    @classmethod
    def at(cls, uri: str | Path) -> "Folder":
        """Return the folder at a local path or URI, which need not exist yet."""
        filesystem, path = resolve(uri)
        if isinstance(filesystem, pafs.LocalFileSystem):
            return cls(filesystem, path)
        text = str(uri).rstrip("/")
        ends_with_path = path and text.endswith(path)
        return cls(
            filesystem, path, text.removesuffix(path) if ends_with_path else str(uri).partition("://")[0] + "://"
        )

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.filesystem, f"{self.path}/{name}", self.prefix)

    @property
    def parent(self) -> "Folder":
        return Folder(self.filesystem, self.path.rpartition("/")[0], self.prefix)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.prefix}{self.path}"

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    @property
    def is_object_store(self) -> bool:
        return self.filesystem.type_name in OBJECT_STORES

    def retrying_filesystem(self) -> pafs.FileSystem:
        """Return a file system that retries by itself, for use by other libraries."""
        return self.filesystem.retrying_filesystem() if isinstance(self.filesystem, S3) else self.filesystem

    @contextmanager
    def local(self) -> Iterator[Path]:
        """Yield a local path with the folder's content: the folder itself, or a temporary copy of a remote one."""
        if self.is_local:
            yield Path(self.path)
            return
        with tempfile.TemporaryDirectory(prefix="instsel-") as copy:
            with space_errors(copy):
                retrying(str(self), lambda: self._download(copy))
            yield Path(copy)

    def _download(self, target: str) -> None:
        local = pafs.LocalFileSystem()
        pafs.copy_files(self.path, target, source_filesystem=self.filesystem, destination_filesystem=local)

    def exists(self, name: str = "") -> bool:
        path = f"{self.path}/{name}" if name else self.path
        return bool(self.filesystem.get_file_info(path).type != pafs.FileType.NotFound)

    def is_file(self, name: str) -> bool:
        return bool(self.filesystem.get_file_info(f"{self.path}/{name}").is_file)

    def names(self) -> list[str]:
        """List the names of files and folders, sorted, without hidden ones; empty if the folder does not exist."""
        infos = self.filesystem.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in infos if not info.base_name.startswith("."))

    def size(self) -> int:
        """Return the bytes of all files below the folder."""
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=True)
        return sum(info.size or 0 for info in self.filesystem.get_file_info(selector) if info.is_file)

    def create(self) -> "Folder":
        """Create the folder; does nothing in an object store, which has no folders."""
        if not self.is_object_store:
            with space_errors(str(self)):
                self.filesystem.create_dir(self.path, recursive=True)
        return self

    def remove(self) -> None:
        """Delete the folder and its content, if it exists."""
        if self.exists():
            self.filesystem.delete_dir(self.path)

    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self.path}/{name}")

    def read(self, name: str) -> bytes:
        with self.filesystem.open_input_file(f"{self.path}/{name}") as stream:
            content: bytes = stream.read()
        return content

    @contextmanager
    def writer(self, name: str) -> Iterator[pa.NativeFile]:
        """Open an output stream whose file appears under `name` if the block ends without an error."""
        with (
            space_errors(f"{self}/{name}"),
            self._uploaded(name) if self.is_object_store else self._renamed(name) as stream,
        ):
            yield stream

    def put(self, name: str, file: Path) -> None:
        """Copy a local file into the folder."""
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
        """Write to a local file first: closing a stream to an object store completes the object even after an error."""
        with tempfile.NamedTemporaryFile(prefix="instsel-") as spool:
            with pa.OSFile(spool.name, "wb") as stream:
                yield stream
            self.put(name, Path(spool.name))

    def _upload(self, name: str, file: Path) -> None:
        # In a single write; `pyarrow.fs.copy_files` would not report a failure at the end of the upload.
        with pa.memory_map(str(file)) as source:
            stream = self.filesystem.open_output_stream(f"{self.path}/{name}")
            stream.write(source.read_buffer())
            stream.close()

    def write(self, name: str, data: bytes) -> None:
        with self.writer(name) as stream:
            stream.write(data)

    def create_once(self, name: str, data: bytes) -> None:
        """Write a small file unless it exists; of concurrent writers one wins, guaranteed on local folders only.

        Object stores have conditional writes (`If-None-Match: *`), but pyarrow does not use them.
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
        """Read a JSON file.

        Raises:
            InputError: the file is not JSON.
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
            InputError: the file is truncated, or has another format.
        """
        path = f"{self.path}/{name}"
        with undamaged(f"{self}/{name}"):
            if name.endswith(".parquet"):
                with self.filesystem.open_input_file(path) as stream:
                    return pq.read_table(stream, columns=columns)
            source = pa.memory_map(path) if self.is_local else self.filesystem.open_input_file(path)
            table = pa.ipc.open_file(source).read_all()
            return table.select(columns) if columns else table

    def clean(self) -> None:
        """Delete the partial files of a killed run."""
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=True)
        for info in self.filesystem.get_file_info(selector):
            if info.is_file and info.base_name.startswith(".") and info.base_name.endswith(".part"):
                self.filesystem.delete_file(info.path)
