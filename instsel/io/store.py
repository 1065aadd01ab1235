"""Folders on a local path or behind a pyarrow/fsspec URI, with atomic writes."""

import errno
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from instsel.errors import InputError, StudyError
from instsel.io.cloud_store import cloud_handler
from instsel.io.local_disk import appearing, refresh, sync_file, sync_folder
from instsel.io.object_store import S3, put_if_absent
from instsel.io.retry import retrying
from instsel.io.uri import resolve

OBJECT_STORES = {"s3", "gcs", "abfs"}
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
# Before the name of a file system that is written in Python.
PYTHON = "py::"
PART = ".part"
# Between what belongs to a name and the part of the name that is drawn, in the name of a partial file.
OWNED = "@"
# A store that cannot refuse the second of two writers shows the last one after this time at the latest.
SETTLE_SECONDS = 1.0


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

    A file is written under a temporary name, which starts with a dot, and renamed; on a local disk it and its folder
    are flushed to the disk, so that it is whole also after a loss of power. In an object store, where a rename
    is a copy, it is written locally and uploaded under its final name: it appears when the upload is complete, and
    until then the previous content stays. Names that start with a dot are not listed.

    With `s3://`, `gs://` and `abfs://`, every method retries while the server is unavailable
    (`io.retry.retrying`). Names that lead out of the folder are refused: they may come from a manifest that somebody
    else wrote.

    Attributes:
        filesystem: of `path`.
        path: absolute; in an object store it starts with the bucket.
        prefix: part of a URI before the path, such as `s3://`; empty for a local path. As text, a folder is its URI
            without account, options or percent signs; it is for display.
        owner: id of the command that holds the study's lease; partial files carry it.
    """

    filesystem: pafs.FileSystem
    path: str
    prefix: str = ""
    owner: str = field(default="", compare=False)

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
        return replace(self, path=self._path(name))

    def _path(self, name: str) -> str:
        """Return the path of a name below the folder.

        Raises:
            InputError: it leads out of the folder.
        """
        if ".." in name.split("/"):
            raise InputError(
                f"{self}: the name {name!r} leads out of this folder, which no study's files do; do not use this folder"
            )
        return f"{self.path}/{name}"

    @property
    def parent(self) -> "Folder":
        return replace(self, path=self.path.rpartition("/")[0])

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
        return self.filesystem.type_name.removeprefix(PYTHON) in OBJECT_STORES

    def retrying_filesystem(self) -> pafs.FileSystem:
        """Return a file system that retries by itself, for use by other libraries."""
        return self.filesystem.retrying_filesystem() if isinstance(self.filesystem, S3) else self.filesystem

    @contextmanager
    def local(self) -> Iterator[Path]:
        """Yield a local path with the folder's content: the folder itself, or a temporary copy of a remote one."""
        if self.is_local:
            refresh(self.path)
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
        path = self._path(name) if name else self.path
        return bool(self.filesystem.get_file_info(path).type != pafs.FileType.NotFound)

    def is_file(self, name: str) -> bool:
        return bool(self.filesystem.get_file_info(self._path(name)).is_file)

    def names(self) -> list[str]:
        """List the names of files and folders, sorted, without hidden ones; empty if the folder does not exist."""
        infos = self.filesystem.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in infos if not info.base_name.startswith("."))

    def infos(self) -> list[pafs.FileInfo]:
        """Return what the file system says of every file below the folder; hidden ones are left out."""
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=True)
        infos = self.filesystem.get_file_info(selector)
        return [info for info in infos if info.is_file and not info.base_name.startswith(".")]

    def size(self) -> int:
        """Return the bytes of all files below the folder."""
        return sum(info.size or 0 for info in self.infos())

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
            self.filesystem.delete_file(self._path(name))

    def read(self, name: str) -> bytes:
        with self.open(name) as stream:
            content: bytes = stream.read()
        return content

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading; one that another machine has just written is waited for, see `local_disk`."""
        path = self._path(name)
        if self.is_local:
            return appearing(path, lambda: self.filesystem.open_input_file(path))
        return self.filesystem.open_input_file(path)

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
        final = self._path(name)
        self.create()
        part = f"{self.path}/.{name}.{self.owner}{OWNED}{uuid.uuid4().hex[:8]}{PART}"
        try:
            with self.filesystem.open_output_stream(part) as stream:
                yield stream
            if self.is_local:
                sync_file(part)
            self.filesystem.move(part, final)
            if self.is_local:
                sync_folder(self.path)
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
        if (cloud := cloud_handler(self.filesystem)) is not None:
            cloud.upload(self._path(name), file)
            return
        # In a single write; `pyarrow.fs.copy_files` would not report a failure at the end of the upload.
        with pa.memory_map(str(file)) as source:
            stream = self.filesystem.open_output_stream(self._path(name))
            stream.write(source.read_buffer())
            stream.close()

    def write(self, name: str, data: bytes) -> None:
        with self.writer(name) as stream:
            stream.write(data)

    def create_once(self, name: str, data: bytes) -> bool:
        """Write a small file unless it exists; of concurrent writers one wins.

        By a hard link on a local disk or NFS, by a conditional write on Google Cloud Storage and Azure, and on S3
        where obstore is installed. Another store is read back after a moment, which shows the last of two writers who
        came at the same time.

        Returns:
            Whether the file has this content.
        """
        self.create()
        if self.is_local:
            self._link_once(name, data)
        elif not self.exists(name) and not self._put_once(name, data):
            self.write(name, data)
            time.sleep(SETTLE_SECONDS)
        try:
            return self.read(name) == data
        except FileNotFoundError:
            # The other one has removed it meanwhile.
            return False

    def _link_once(self, name: str, data: bytes) -> None:
        with tempfile.NamedTemporaryFile(dir=self.path, prefix=".", suffix=f".{self.owner}{OWNED}{PART}") as part:
            part.write(data)
            part.flush()
            os.fsync(part.fileno())
            with suppress(FileExistsError):
                os.link(part.name, self._path(name))
                sync_folder(self.path)

    def _put_once(self, name: str, data: bytes) -> bool:
        """Return whether the store itself decided which writer wins."""
        if (cloud := cloud_handler(self.filesystem)) is not None:
            cloud.put_if_absent(self._path(name), data)
            return True
        return isinstance(self.filesystem, S3) and put_if_absent(self.filesystem, self._path(name), data)

    def rename(self, target: "Folder") -> None:
        """Move a local folder within its file system; `target` does not exist."""
        target.parent.create()
        os.rename(self.path, target.path)
        sync_folder(self.parent.path)
        sync_folder(target.parent.path)

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
        path = self._path(name)
        with undamaged(f"{self}/{name}"):
            if name.endswith(".parquet"):
                with self.open(name) as stream:
                    return pq.read_table(stream, columns=columns)
            source = appearing(path, lambda: pa.memory_map(path)) if self.is_local else self.open(name)
            table = pa.ipc.open_file(source).read_all()
            return table.select(columns) if columns else table

    def clean(self, everyone: bool = False) -> None:
        """Delete the partial files that this folder's owner left, those without an owner where it has none.

        Args:
            everyone: delete those of other owners too, for who has just taken the lease: their commands have ended.
        """
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=True)
        for info in self.filesystem.get_file_info(selector):
            name = info.base_name
            if not info.is_file or not name.startswith(".") or not name.endswith(PART):
                continue
            owner = name.rpartition(OWNED)[0].rpartition(".")[2]
            if owner == self.owner or (everyone and owner):
                with suppress(FileNotFoundError):
                    self.filesystem.delete_file(info.path)
