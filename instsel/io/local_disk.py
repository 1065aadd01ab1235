"""Local disks and NFS: what is written lasts, and what another machine has written is found."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

# An NFS client remembers for 30 to 60 s that it has not found a file.
APPEAR_SECONDS = 90.0
POLL_SECONDS = 0.5


def sync_file(path: str) -> None:
    """Flush a file to the disk, before it is renamed: else a loss of power may leave an empty file of that name."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: str) -> None:
    """Flush a folder to the disk, after a rename in it. File systems that cannot do so are passed over."""
    with suppress(OSError):
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: str, flags: int) -> None:
    opened = os.open(path, flags)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def appearing(path: str, call: Callable[[], T]) -> T:
    """Return the result of opening a file, tried again while its folder lists it and it is not found.

    Listing a folder makes an NFS client ask the server; a file that is not listed is missing, and that is said at once.

    Raises:
        FileNotFoundError: the file is not there.
    """
    ends = time.monotonic() + APPEAR_SECONDS
    while True:
        try:
            return call()
        except FileNotFoundError:
            if not _is_listed(path) or time.monotonic() > ends:
                raise
        time.sleep(POLL_SECONDS)


def refresh(folder: str) -> None:
    """Look at every file of a folder, so that other libraries find what another machine has just written there."""
    _is_listed(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                os.stat(entry.path)


def _is_listed(path: str) -> bool:
    """Return whether the folders on the way list what is in them, down to this path."""
    above, _, name = path.rpartition("/")
    try:
        names = os.listdir(above or "/")
    except FileNotFoundError:
        return bool(above) and _is_listed(above)
    except OSError:
        return False
    return name in names
