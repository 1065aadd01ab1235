"""Copies of models behind a URI: one a machine, in the user's cache, by content.

A copy is made under a temporary name and renamed when it is whole. Of several processes of a machine one copies, and
the others wait for it: they lock a file beside the copy, which the system unlocks when a process ends.
"""

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from instsel.console import log
from instsel.errors import InputError, StudyError
from instsel.io.digests import cache_folder
from instsel.io.fingerprint import fingerprint
from instsel.io.local_disk import sync_file, sync_folder
from instsel.io.model_files import (
    WEIGHTS,
    ModelKey,
    RemoteFile,
    checked_content,
    content_of,
    errors_named,
    remote_files,
)
from instsel.io.retry import retrying
from instsel.io.store import NO_SPACE, Folder

MODELS = "models"
PART = ".part"
BLOCK = 16 << 20
THREADS = 4
# What is smaller only points at weights (`git lfs`), which the checks before a run say.
LEAST_WEIGHTS = 4096
# File systems without locks.
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}


def local_copy(uri: str, content: str | None, key: ModelKey, weights: bool = True) -> Path:
    """Return the folder with this machine's copy of a model behind a URI; it is made where there is none.

    Args:
        uri: of the model's folder.
        content: that the study is pinned to; None for what is there now.
        key: of the study file that names the model.
        weights: without them configuration and tokenizer are there, which takes megabytes.

    Raises:
        InputError: there is no model, it may not be read, or it has another content; the message names `key`.
        StudyError: the store does not answer, or the disk is full.
    """
    content = checked_content(content, key)
    if content is not None and (copy := _find(uri, content, weights)) is not None:
        return copy
    files = remote_files(uri, key)
    current = content_of(files)
    if content is not None and current != content:
        raise _no_longer_same(uri, key, content, current)
    wanted = files if weights else {name: file for name, file in files.items() if not _is_weights(name, file)}
    target = _copy_folder(uri, current, weights)
    with _locked(target) as is_alone:
        copy = _find(uri, current, weights)
        if copy is None:
            if is_alone:
                _remove_left(target)
            _copy(uri, wanted, target, key, current)
    return copy or target


def _no_longer_same(uri: str, key: ModelKey, content: str, current: str) -> InputError:
    return InputError(
        f"{key}: {uri} holds another model than the one that this study is pinned to: its content is {current}, not "
        f"{content}; put the files of that one back, or run the study again, without {key.partition('.')[0]}.revision "
        "if it has one, which does what depends on the model anew"
    )


def _copy_folder(uri: str, content: str, weights: bool) -> Path:
    name = re.sub(r"[^\w.-]", "_", uri.rstrip("/").rpartition("/")[2]).lstrip(".") or "model"
    # Of two stores whose checksums are weak, neither stands for the other.
    return cache_folder() / MODELS / f"{name}-{fingerprint([uri, content])}{'' if weights else '-tokenizer'}"


def _find(uri: str, content: str, weights: bool) -> Path | None:
    """Return a copy that is there; one with weights does for both."""
    copies = [_copy_folder(uri, content, True), *([] if weights else [_copy_folder(uri, content, False)])]
    return next((target for target in copies if target.is_dir()), None)


def _is_weights(name: str, file: RemoteFile) -> bool:
    return name.endswith(WEIGHTS) and file.bytes >= LEAST_WEIGHTS


def _remove_left(target: Path) -> None:
    """Remove what processes that were killed have left of a copy."""
    for left in target.parent.glob(f".{target.name}.*{PART}"):
        shutil.rmtree(left, ignore_errors=True)


def _copy(uri: str, files: Mapping[str, RemoteFile], target: Path, key: ModelKey, content: str) -> None:
    size = sum(file.bytes for file in files.values())
    with _space(target, size):
        _require_space(target.parent, size)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=PART))
        log.info("copying %s, %.1f MB, to %s", uri, size / 1e6, target)
        try:
            with errors_named(uri, key), ThreadPoolExecutor(THREADS) as threads:
                source = Folder.at(uri)
                for _ in threads.map(lambda name: _copy_file(source, name, scratch / name), files):
                    pass
            # Whoever writes to the bucket meanwhile, the copy is of one state.
            is_whole = all((scratch / name).stat().st_size == file.bytes for name, file in files.items())
            if not is_whole or content_of(remote_files(uri, key)) != content:
                raise InputError(
                    f"{key}: {uri} changed while it was copied; run the same command again when it is whole"
                )
            _rename(scratch, target)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise


def _rename(scratch: Path, target: Path) -> None:
    try:
        os.rename(scratch, target)
    except OSError:
        # Without locks another process may have been first, with the same content.
        if not target.is_dir():
            raise
        shutil.rmtree(scratch, ignore_errors=True)
    sync_folder(str(target.parent))


def _copy_file(source: Folder, name: str, target: Path) -> None:
    def copy() -> None:
        with source.filesystem.open_input_file(f"{source.path}/{name}") as stream, target.open("wb") as file:
            while block := stream.read(BLOCK):
                file.write(block)

    target.parent.mkdir(parents=True, exist_ok=True)
    retrying(f"{source}/{name}", copy)
    sync_file(str(target))


def _require_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{free / 1e9:.1f} GB are free")


@contextmanager
def _space(target: Path, size: int) -> Iterator[None]:
    try:
        yield
    except (OSError, InputError) as error:
        # What reads the store names the key in its errors, this one too.
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in NO_SPACE:
            raise
        raise StudyError(
            f"no space left for a copy of the model, {size / 1e9:.1f} GB, in {target.parent}; free some there, or set "
            "XDG_CACHE_HOME on every machine to a folder with more, and run the same command again"
        ) from error


@contextmanager
def _locked(target: Path) -> Iterator[bool]:
    """Let one process at a time work on a copy, and yield whether it is alone.

    Where the file system has no locks, several may copy, and the rename decides.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(target.parent / f".{target.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InputError(
            f"{target.parent}: no model can be copied there ({error.strerror}); set XDG_CACHE_HOME on every machine to "
            "a folder that may be written to"
        ) from error
    try:
        is_alone = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            is_alone = False
        yield is_alone
    finally:
        with suppress(OSError):
            os.close(lock)
