"""Google Cloud Storage and Azure through fsspec: waited for when they are away, their errors as Python has them.

gcsfs and adlfs find credentials by themselves, in the environment or by the machine's role; none is part of a URI or
of what goes to workers. Both know conditional writes, by which a store decides between two writers.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs as pafs

from instsel.errors import InputError
from instsel.io.object_store import Reader
from instsel.io.retry import CREDENTIALS, no_such_bucket, retrying

T = TypeVar("T")

# By scheme: the name by which pyarrow's own file systems go, and the extra that brings the package.
GOOGLE, AZURE = ("gcs", "gs"), ("abfs", "azure")
SCHEMES = {"gs": GOOGLE, "gcs": GOOGLE, "abfs": AZURE, "abfss": AZURE, "az": AZURE}
FORBIDDEN, MISSING, AWAY = {401, 403}, {404}, {408, 429}
SERVER_ERROR = 500
# Names of the classes of aiohttp, requests, google.auth, azure.core and msal, which have no common one.
AWAY_CLASS = re.compile(
    r"Connect|Timeout|Disconnected|TransportError|ServiceRequest|ServiceResponse|IncompleteRead|Proxy|ChunkedEncoding"
    r"|ClientPayload"
)
FORBIDDEN_CLASS = re.compile(r"Authentication|Credential|RefreshError|GoogleAuthError")


class CloudHandler(pafs.FSSpecHandler):  # type: ignore[misc]
    """A bucket or container as pyarrow's file system; every call is repeated while the store is away."""

    def __init__(self, fs: Any, scheme: str = "") -> None:
        super().__init__(fs)
        self.scheme = scheme

    def get_type_name(self) -> str:
        """Return the name that pyarrow's own file system of the store has."""
        return SCHEMES[self.scheme][0]

    def get_file_info(self, paths: Any) -> Any:
        """Waits, as all of these do; what is asked, done and given back is as in pyarrow."""
        return self._retry(paths[0] if paths else "", lambda: super(CloudHandler, self).get_file_info(paths))

    def get_file_info_selector(self, selector: Any) -> Any:
        infos: list[pafs.FileInfo] = self._retry(selector.base_dir, lambda: self._list(selector))
        return infos

    def _list(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        # Not pyarrow's way, by `find(maxdepth=1)`, for which adlfs gives files of folders below too.
        base = selector.base_dir.strip("/")
        try:
            if selector.recursive:
                entries = list(self.fs.find(base, withdirs=True, detail=True).values())
            else:
                entries = self.fs.ls(base, detail=True)
        except FileNotFoundError:
            entries = []
        names = [entry["name"].strip("/") for entry in entries]
        if not entries and not selector.allow_not_found:
            raise FileNotFoundError(selector.base_dir)
        # A folder may have an object of its own, by which others show it where it is empty.
        return [self._create_file_info(name, entry) for name, entry in zip(names, entries, strict=True) if name != base]

    def create_dir(self, path: str, recursive: bool) -> None:
        """Do nothing: a store has no folders, and buckets are the user's to make."""

    def delete_dir(self, path: str) -> None:
        self._retry(path, lambda: super(CloudHandler, self).delete_dir(path))

    def delete_file(self, path: str) -> None:
        self._retry(path, lambda: super(CloudHandler, self).delete_file(path))

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        info = self.describe(path)
        if info["type"] != "file":
            raise FileNotFoundError(path)
        return pa.PythonFile(Reader(self._uri(path), _Ranges(self, path, info["size"])), mode="r")

    def describe(self, path: str) -> dict[str, Any]:
        """Return what the store says of an object beside its bytes, such as its checksums."""
        info: dict[str, Any] = self._retry(path, lambda: self.fs.info(path))
        # Of Azure; there it is binary.
        md5 = (info.get("content_settings") or {}).get("content_md5")
        return {**info, "content_md5": bytes(md5).hex()} if md5 else info

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Read a part of an object."""
        with os_errors():
            data: bytes = self.fs.cat_file(path, start=start, end=stop)
        return data

    def upload(self, path: str, file: Path) -> None:
        """Write a local file as an object, which appears when it is whole."""
        self._write(path, lambda: self.fs.put_file(str(file), path))

    def put_if_absent(self, path: str, data: bytes) -> None:
        """Write an object unless its name is taken, decided by the store."""
        try:
            self._write(path, lambda: self.fs.pipe_file(path, data, mode="create"))
        except FileExistsError:
            return

    def _write(self, path: str, call: Callable[[], object]) -> None:
        try:
            self._retry(path, call)
        except FileNotFoundError as error:
            raise no_such_bucket(self._uri(path)) from error

    def _retry(self, path: str, call: Callable[[], T]) -> T:
        def checked() -> T:
            with os_errors():
                return call()

        return retrying(self._uri(path), checked)

    def _uri(self, path: str) -> str:
        return f"{self.scheme}://{path}"


class _Ranges:
    """An object that is read in parts."""

    def __init__(self, handler: CloudHandler, path: str, size: int) -> None:
        self._handler, self._path, self._size = handler, path, size

    def size(self) -> int:
        return self._size

    def read_at(self, count: int, at: int) -> bytes:
        return self._handler.read_range(self._path, at, at + count)

    def close(self) -> None:
        """Nothing is open between reads."""


@contextmanager
def os_errors() -> Iterator[None]:
    """Turn what the packages raise into the errors that Python has for it."""
    try:
        yield
    except Exception as error:
        if (plain := as_os_error(error)) is None:
            raise
        raise plain from error


def as_os_error(error: Exception) -> OSError | None:
    """Return an error of a store as Python has it; None where it is one already, or none of a store."""
    if isinstance(error, FileNotFoundError | FileExistsError | IsADirectoryError | PermissionError | ConnectionError):
        return None
    kind, text, status = type(error), f"{type(error).__name__}: {error}", _status(error)
    names = " ".join(each.__name__ for each in kind.__mro__)
    if status in FORBIDDEN or FORBIDDEN_CLASS.search(names) or str(error).startswith("Forbidden"):
        return PermissionError(text)
    if status in MISSING:
        return FileNotFoundError(text)
    if status in AWAY or (status or 0) >= SERVER_ERROR or AWAY_CLASS.search(names):
        return ConnectionError(text)
    if isinstance(error, OSError | InputError | TypeError | ValueError | MemoryError):
        return None
    # adlfs wraps what went wrong into others.
    inner = error.__cause__ or error.__context__
    known = as_os_error(inner) if isinstance(inner, Exception) else None
    return known or OSError(text)


def _status(error: Exception) -> int | None:
    for name in ("status_code", "code", "status"):
        value = getattr(error, name, None)
        if isinstance(value, int | str) and str(value).isdigit():
            return int(value)
    return None


def cloud_handler(filesystem: pafs.FileSystem) -> CloudHandler | None:
    """Return the handler of a file system of Google Cloud Storage or Azure; None for another one."""
    handler = filesystem.handler if isinstance(filesystem, pafs.PyFileSystem) else None
    return handler if isinstance(handler, CloudHandler) else None


def cloud_store(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return file system and path of a URI of Google Cloud Storage or Azure.

    Raises:
        InputError: the package is not installed, or nothing says which account is meant.
    """
    import fsspec

    scheme = uri.partition("://")[0]
    extra = SCHEMES[scheme][1]
    # Of nothing that is used here, and it asks at every step for the kind of the bucket, which takes more rights.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        # Workers write what this process has listed before.
        filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        raise InputError(
            f"{uri}: {scheme}:// needs a package that is not installed; pip install 'instsel[{extra}]' on every machine"
        ) from error
    except ValueError as error:
        raise InputError(f"{uri}: {error}; {CREDENTIALS[SCHEMES[scheme][0]]}") from error
    return pafs.PyFileSystem(CloudHandler(filesystem, scheme)), path.strip("/")
