"""S3, and what speaks like it, through pyarrow: found by the environment, and waited for when it is away."""

import io
import os
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs as pafs

from instsel.console import log
from instsel.io.retry import retrying

T = TypeVar("T")

SCHEME = "s3://"
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
# Of pyarrow itself. Refused connections: 3 take a second or two; 13 take 204 s, each wait twice the one before.
FEW_ATTEMPTS, MANY_ATTEMPTS = 3, 13
CONDITIONAL_SECONDS = timedelta(seconds=10)


class S3(pafs.S3FileSystem):  # type: ignore[misc]
    """An S3 file system that waits for a server that is away, and resumes reading where it was cut off.

    Every call is repeated, see `retry.retrying`. What pyarrow does on its own, without coming back to Python
    in between (`copy_files`, output streams), is tried again by pyarrow, `attempts` times. pyarrow forgets that number
    when it pickles a file system; this class does not. Credentials are never part of it.
    """

    def __init__(self, endpoint: str | None, region: str | None, attempts: int = FEW_ATTEMPTS) -> None:
        """A file system on an endpoint, http://HOST:PORT, or on AWS if that is None."""
        self._where, self.attempts = (endpoint, region), attempts
        super().__init__(
            endpoint_override=endpoint,
            region=region,
            # One request for a small object, in place of three.
            allow_delayed_open=True,
            retry_strategy=pafs.AwsDefaultS3RetryStrategy(max_attempts=attempts),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self._where, self.attempts)

    def retrying_filesystem(self) -> "S3":
        """The same, for code that reads and writes in its own way: pyarrow tries for minutes, and cannot be stopped."""
        return type(self)(*self._where, MANY_ATTEMPTS)

    @property
    def where(self) -> tuple[str | None, str | None]:
        """Endpoint and region; None for AWS and for no region."""
        return self._where

    def get_file_info(self, paths_or_selector: Any) -> Any:
        """Waits, as all of these do; what is asked, done and given back is as in pyarrow."""
        return self._retry(paths_or_selector, lambda: super(S3, self).get_file_info(paths_or_selector))

    def create_dir(self, path: str, *, recursive: bool = True) -> None:
        self._retry(path, lambda: super(S3, self).create_dir(path, recursive=recursive))

    def delete_dir(self, path: str) -> None:
        self._retry(path, lambda: super(S3, self).delete_dir(path))

    def delete_file(self, path: str) -> None:
        self._retry(path, lambda: super(S3, self).delete_file(path))

    def open_input_file(self, path: str) -> pa.NativeFile:
        file = self._retry(path, lambda: super(S3, self).open_input_file(path))
        return pa.PythonFile(Reader(f"{SCHEME}{path}", file), mode="r")

    def describe(self, path: str) -> dict[str, Any]:
        """Return what the store says of an object beside its bytes, such as its ETag."""

        def ask() -> dict[str, Any]:
            with super(S3, self).open_input_stream(path) as stream:
                return stream.metadata() or {}

        return self._retry(path, ask)

    def _retry(self, path: Any, call: Callable[[], T]) -> T:
        return retrying(f"{SCHEME}{getattr(path, 'base_dir', path)}", call)


class Reader:
    """An object as Python's file: a read that is cut off is made again.

    Args:
        uri: of the object.
        file: with `size()`, `read_at(count, at)` and `close()`.
    """

    closed = False

    def __init__(self, uri: str, file: Any) -> None:
        self._uri, self._file, self._size, self._at = uri, file, file.size(), 0

    def read(self, count: int = -1) -> bytes:
        at, left = self._at, max(0, self._size - self._at)
        count = left if count < 0 else min(count, left)
        data: bytes = retrying(self._uri, lambda: self._file.read_at(count, at)) if count else b""
        self._at += len(data)
        return data

    def seek(self, to: int, whence: int = io.SEEK_SET) -> int:
        self._at = to + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True
        self._file.close()


def s3(uri: str) -> tuple[S3, str]:
    """File system and path, BUCKET/KEY, of an S3 URI; endpoint, region and credentials come from the environment.

    Raises:
        InputError: there is no such bucket.
        StudyError: AWS was away when it was asked for the bucket's region.
    """
    path = uri.removeprefix(SCHEME).strip("/")
    endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
    # AWS knows where a bucket is; others take what the environment says, if anything.
    bucket = path.partition("/")[0] if endpoint is None else None
    return _connect(endpoint, bucket), path


def put_if_absent(filesystem: S3, path: str, data: bytes) -> bool:
    """Write an object unless its key is taken, decided by the store (`If-None-Match: *`), which pyarrow does not ask.

    Returns:
        Whether the store has decided, for or against; not where obstore is not installed, has no credentials or the
        store does not know conditional writes.
    """
    try:
        import obstore
        from obstore.store import S3Store
    except ImportError:
        return False
    bucket, _, key = path.partition("/")
    endpoint, region = filesystem.where
    config: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    config |= {"region": region} if region else {}
    is_plain = (endpoint or "").startswith("http://")
    try:
        store = S3Store(
            bucket,
            config=config,  # type: ignore[arg-type]
            client_options={"allow_http": is_plain, "timeout": CONDITIONAL_SECONDS},
            retry_config={"max_retries": 1, "retry_timeout": CONDITIONAL_SECONDS},
        )
        obstore.put(store, key, data, mode="create")
    except obstore.exceptions.AlreadyExistsError:
        return True
    # Its errors have no common class, and the plain way tells what is wrong with the store or the credentials.
    except Exception as error:
        log.debug("no conditional write of %s: %s", path, error)
        return False
    return True


@lru_cache
def _connect(endpoint: str | None, bucket: str | None) -> S3:
    if bucket is None:
        region = next((os.environ[name] for name in REGIONS if os.environ.get(name)), None)
        return S3(endpoint, region)
    return S3(None, retrying(f"{SCHEME}{bucket}", lambda: pafs.resolve_s3_region(bucket)))
