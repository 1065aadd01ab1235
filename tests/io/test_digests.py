"""Digests of local files, and the cache that saves reading them again."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import xxhash

from instsel.errors import InputError
from instsel.io import digests
from instsel.io.digests import LEAST_CACHED, cache_file, digest_file, unchanged

LONG_AGO = 1_600_000_000_000_000_000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file of digests, which is not there yet; every file counts as settled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED_NS", -1)
    return cache_file()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(bytes(LEAST_CACHED))
    return path


def entries(cache: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(cache) as connection:
        found = connection.execute("SELECT path, digest FROM xxh3_128").fetchall()
    connection.close()
    return found


def test_a_file_that_stays_the_same_is_read_once(cache: Path, large: Path) -> None:
    digest = xxhash.xxh3_128_hexdigest(bytes(LEAST_CACHED))
    assert digest_file(str(large)) == digest
    assert entries(cache) == [(str(large), digest)]
    with sqlite3.connect(cache) as connection:
        connection.execute("UPDATE xxh3_128 SET digest = ?", ("0" * 32,))
    connection.close()
    assert digest_file(str(large)) == "0" * 32
    link = large.with_name("link")
    link.symlink_to(large)
    assert digest_file(str(link)) == "0" * 32


def test_other_bytes_of_the_same_size_and_time_are_read(cache: Path, large: Path) -> None:
    os.utime(large, ns=(LONG_AGO, LONG_AGO))
    before = digest_file(str(large))
    with large.open("r+b") as stream:
        stream.write(b"x")
    os.utime(large, ns=(LONG_AGO, LONG_AGO))
    assert digest_file(str(large)) != before


def test_a_file_that_was_just_written_is_not_kept(cache: Path, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent.parent))
    large.touch()
    digest_file(str(large))
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"no database" * 99, b""])
def test_a_damaged_cache_is_replaced(cache: Path, large: Path, content: bytes) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content)
    assert digest_file(str(large)) == digest_file(str(large)) == xxhash.xxh3_128_hexdigest(bytes(LEAST_CACHED))
    assert len(entries(cache)) == 1


def test_without_a_cache_files_are_read(tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(digests, "SETTLED_NS", -1)
    assert digest_file(str(large)) == xxhash.xxh3_128_hexdigest(bytes(LEAST_CACHED))


@pytest.mark.process
def test_several_processes_write_the_cache_at_once(cache: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.bin" for number in range(12)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * LEAST_CACHED)
    code = (
        "import sys; from instsel.io import digests; digests.SETTLED_NS = -1\n"
        "for path in sys.argv[1:]: digests.digest_file(path)"
    )
    command = [sys.executable, "-c", code, *map(str, files)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    expected = {str(file): xxhash.xxh3_128_hexdigest(file.read_bytes()) for file in files}
    assert dict(entries(cache)) == expected


def test_a_file_that_grows_while_it_is_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "grows"
    path.write_bytes(bytes(64 << 10))
    monkeypatch.setattr(digests, "BLOCK", 1)
    ends = threading.Event()

    def grow() -> None:
        while not ends.is_set():
            with path.open("ab") as stream:
                stream.write(b"x")
            time.sleep(0.001)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(InputError, match="grows changed while it was read, from .* bytes; wait until it is whole"):
            digest_file(str(path))
    finally:
        ends.set()
        writer.join()


def test_a_block_ends_with_an_error_where_the_file_changed(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"one\n")
    with unchanged(str(path)):
        path.read_bytes()
    with pytest.raises(InputError, match="changed while it was read, from 4 to 8 bytes"), unchanged(str(path)):
        path.write_bytes(b"one\ntwo\n")
    with pytest.raises(InputError, match="was removed while it was read"), unchanged(str(path)):
        path.unlink()
