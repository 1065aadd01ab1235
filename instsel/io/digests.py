"""Digests of local files by all their bytes, kept in the user's cache, so that a file that stays the same is read once.

A file is recognised by path, size, inode and the times of its last change. The cache is a table of SQLite, which takes
several writers; where it cannot be read or written, files are read again.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from io import FileIO
from pathlib import Path

import xxhash

from instsel.errors import InputError

BLOCK = 8 << 20
# A smaller file is read as fast as it is looked up.
LEAST_CACHED = 1 << 20
# A file that changes twice within the resolution of its file system's clock may have the same times with other bytes.
SETTLED_NS = 2_000_000_000
LOCK_SECONDS = 5.0
DIGEST_LENGTH = 32


def digest_file(path: str, cache: Path | None = None) -> str:
    """Return xxh3_128 of all bytes of a local file, hexadecimal.

    Args:
        path: of the file.
        cache: file of digests; by default that of the user.

    Raises:
        InputError: the file changed while it was read.
    """
    with open(path, "rb", buffering=0) as stream:
        before = os.fstat(stream.fileno())
        if before.st_size < LEAST_CACHED:
            return _read(stream, path, before)
        known = _Cache(cache or cache_file(), os.path.realpath(path), before)
        digest = known.look_up()
        if digest is None:
            digest = _read(stream, path, before)
            known.keep(digest)
        return digest


@contextmanager
def unchanged(path: str) -> Iterator[None]:
    """Read a local file in the block.

    Raises:
        InputError: the file is another one, or has another size or time, when the block ends without an error.
    """
    before = os.stat(path)
    yield
    _require_same(path, before)


def cache_folder() -> Path:
    """Return the user's cache: below XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "instsel"


def cache_file() -> Path:
    """Return the user's file of digests."""
    return cache_folder() / "digests.sqlite"


def _read(stream: FileIO, path: str, before: os.stat_result) -> str:
    digest, size = xxhash.xxh3_128(), 0
    block = memoryview(bytearray(min(BLOCK, max(1, before.st_size))))
    while count := stream.readinto(block):
        digest.update(block[:count])
        size += count
    _require_same(path, before, size)
    return digest.hexdigest()


def _require_same(path: str, before: os.stat_result, size: int | None = None) -> None:
    try:
        after = os.stat(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} was removed while it was read; put it back and run again") from error
    read = before.st_size if size is None else size
    same = (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    if same and before.st_size == read == after.st_size:
        return
    raise InputError(
        f"{path} changed while it was read, from {before.st_size} to {max(read, after.st_size)} bytes; wait until it "
        "is whole, and run the same command again"
    )


class _Cache:
    """The entry of a file in the table of digests."""

    def __init__(self, cache: Path, path: str, stat: os.stat_result) -> None:
        self._cache, self._path = cache, path
        # As text, since inodes can be larger than SQLite's integers. The time of the last change of the inode tells a
        # file whose time of modification was set back.
        self._stamp = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"
        self._is_settled = time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED_NS

    def look_up(self) -> str | None:
        """Return the digest of the file as it is; None if it is not known."""
        if not self._cache.is_file():
            return None
        with self._forgiving(), self._table() as table:
            row = table.execute(
                "SELECT digest FROM xxh3_128 WHERE path = ? AND stamp = ?", (self._path, self._stamp)
            ).fetchone()
            if row is not None and isinstance(row[0], str) and len(row[0]) == DIGEST_LENGTH:
                return row[0]
        return None

    def keep(self, digest: str) -> None:
        """Add the digest of the file, in place of that of an earlier state."""
        if not self._is_settled:
            return
        with self._forgiving():
            self._cache.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._table() as table:
                table.execute("INSERT OR REPLACE INTO xxh3_128 VALUES (?, ?, ?)", (self._path, self._stamp, digest))

    @contextmanager
    def _table(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._cache, timeout=LOCK_SECONDS, isolation_level=None)) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS xxh3_128 (path TEXT PRIMARY KEY, stamp TEXT, digest TEXT)")
            yield connection

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        """Do without a cache that cannot be used, and remove one that is damaged."""
        try:
            with suppress(OSError, sqlite3.OperationalError):
                yield
        except sqlite3.DatabaseError:
            with suppress(OSError):
                self._cache.unlink()
