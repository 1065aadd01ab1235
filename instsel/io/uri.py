"""Paths and URIs in a study file: checks, file systems, globs."""

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs as pafs

from instsel.errors import InputError
from instsel.io.cloud_store import SCHEMES, cloud_store
from instsel.io.object_store import SCHEME, s3

SECRET = re.compile(r"^(?:s3://[^/]*[:@]|[\w+.-]+://[^/@]*:[^/@]*@)")
OPTIONS = re.compile(r"^(?:s3|gs|gcs|abfss?|az)://[^?]*\?[^/]*=")
LOCAL = "file://"
WEB = re.compile(r"^(?:https?|ftp)://", re.IGNORECASE)
MAGIC = re.compile(r"[*?[]")
ANY_FOLDERS = "**"
HUB_PAGE = re.compile(r"^https?://(?:www\.)?(?:huggingface\.co|hf\.co)/datasets/([\w.-]+/[\w.-]+)", re.IGNORECASE)


def checked_uri(uri: str) -> str:
    """Check and return a path, URI, glob or hub id.

    Raises:
        ValueError: it is a URI with a secret, which would end up in manifests and logs, or an S3 URI with options. The
            message does not contain the secret.
    """
    if SECRET.match(uri):
        scheme = uri.partition("://")[0]
        raise ValueError(
            f"a {scheme}:// URI with a key or password, which would be written into manifests and logs; remove it from "
            "the URI and put it into the environment of every machine (S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
    if OPTIONS.match(uri):
        raise ValueError(
            f"{uri.partition('?')[0]} has options after a question mark, which are not read; put what they say into "
            "the environment of every machine (S3: the endpoint into AWS_ENDPOINT_URL)"
        )
    return uri


def resolve(uri: str | Path) -> tuple[pafs.FileSystem, str]:
    """Return file system and path of a local path or URI.

    The path after `file://` is taken as it is written where that exists, and with its percent signs decoded elsewhere.

    Raises:
        InputError: the URI's scheme is unknown, its package is not installed, its server does not answer, it is a web
            address, or it contains a secret or options.
    """
    text = str(uri)
    if "://" not in text:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(text))
    if text.startswith(LOCAL):
        path = text.removeprefix(LOCAL).removeprefix("localhost")
        return pafs.LocalFileSystem(), os.path.abspath(path if os.path.lexists(path) else unquote(path))
    if WEB.match(text):
        page = HUB_PAGE.match(text)
        instead = f"write hf:{page[1]}" if page else "download it and give the path of the file"
        raise InputError(f"{text} is a web address, which is not read; {instead}")
    try:
        checked_uri(text)
    except ValueError as error:
        raise InputError(str(error)) from error
    try:
        scheme = text.partition("://")[0]
        if scheme in SCHEMES:
            return cloud_store(text)
        if text.startswith(SCHEME):
            return s3(text)
        resolved: tuple[pafs.FileSystem, str] = pafs.FileSystem.from_uri(text)
        return resolved
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return _by_fsspec(text)
    except OSError as error:
        raise InputError(f"{text}: {error}; correct it or make it reachable") from error


def _by_fsspec(text: str) -> tuple[pafs.FileSystem, str]:
    """Resolve a URI whose scheme pyarrow does not know."""
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(text)
    except (ImportError, ValueError) as error:
        raise InputError(f"{text}: {error}; use a local path or a URI that pyarrow or fsspec knows") from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


def under_root(root: str, uri: str) -> str:
    """Resolve relative paths below `root` and expand ~; URIs, hub ids and absolute paths stay as they are."""
    if "://" in uri or uri.startswith("hf:"):
        return uri
    path = os.path.expanduser(uri)
    if os.path.isabs(path):
        return path
    return f"{os.path.expanduser(root).rstrip('/')}/{path}"


def expand(pattern: str, folders: bool = False) -> list[str]:
    """Expand a glob to sorted paths or URIs; return other paths, and a path that exists as it is written, unchanged.

    `*`, `?` and `[...]` match in any part of a path; `**` matches folders at any depth, and none. A part with brackets
    that exists as it is written is no pattern. What starts with a dot is matched only by a part that starts with one,
    as in a shell: `*` leaves out the `._name` files of macOS and `.ipynb_checkpoints`. Links to folders are followed,
    but not in circles. A link to nothing is matched like a file.

    Args:
        pattern: a path or URI.
        folders: match folders too, unless the pattern has `**`.
    """
    if not MAGIC.search(pattern) or _is_folder(pattern) is not None:
        return [pattern]
    scheme, separator, rest = pattern.rpartition("://")
    parts = rest.split("/")
    fixed = next(index for index, part in enumerate(parts) if MAGIC.search(part))
    base = f"{scheme}{separator}{'/'.join(parts[:fixed])}"
    if base.startswith(LOCAL) or parts[:fixed] == [""]:
        # As a path: names below it are not escaped as in a URI.
        base = resolve(base or "/")[1]
    return sorted(set(_matches(base, parts[fixed:], folders and ANY_FOLDERS not in parts)))


def walk(folder: str) -> list[str]:
    """Return the files below a folder as sorted paths relative to it, without those whose names start with a dot."""
    base = folder.rstrip("/")
    return sorted(name[len(base) + 1 :] for name in _matches(base, [ANY_FOLDERS], False))


def _matches(folder: str, parts: list[str], folders: bool) -> Iterator[str]:
    part, rest = parts[0], parts[1:]
    if part == ANY_FOLDERS:
        for each in _tree(folder, (os.path.realpath(folder),)):
            yield from _matches(each, rest or ["*"], False)
        return
    for name, is_folder in _children(folder, part):
        if rest and is_folder:
            yield from _matches(name, rest, folders)
        elif not rest and (folders or not is_folder):
            yield name


def _tree(folder: str, above: tuple[str, ...]) -> Iterator[str]:
    """Yield a folder and those below it; `above` are the real paths of the folders on the way to it, and its own."""
    yield folder
    for name, is_folder in _children(folder, "*"):
        real = os.path.realpath(name)
        if is_folder and real not in above:
            yield from _tree(name, (*above, real))


def _children(folder: str, part: str) -> list[tuple[str, bool]]:
    """Return what a part of a pattern matches in a folder, and whether that is a folder; nothing in a missing one."""
    is_plain = not MAGIC.search(part)
    if is_plain or "[" in part:
        name = _join(folder, part)
        is_folder = _is_folder(name)
        if is_plain or is_folder is not None:
            return [] if is_folder is None else [(name, is_folder)]
    hidden = part.startswith(".")
    return [
        (_join(folder, name), is_folder)
        for name, is_folder in _entries(folder)
        if fnmatchcase(name, part) and (hidden or not name.startswith("."))
    ]


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder else name


def _entries(folder: str) -> list[tuple[str, bool]]:
    filesystem, path = resolve(folder or ".")
    if isinstance(filesystem, pafs.LocalFileSystem):
        if not os.path.isdir(path):
            return []
        # Not by pyarrow, which leaves out links to nothing.
        with os.scandir(path) as entries:
            return sorted((entry.name, entry.is_dir()) for entry in entries)
    infos = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return sorted((info.base_name, info.type == pafs.FileType.Directory) for info in infos)


def _is_folder(uri: str) -> bool | None:
    """Return whether a path or URI is a folder, None where nothing is there; a link to nothing is no folder."""
    filesystem, path = resolve(uri)
    if isinstance(filesystem, pafs.LocalFileSystem):
        return os.path.isdir(path) if os.path.lexists(path) else None
    kind = filesystem.get_file_info(path).type
    return None if kind == pafs.FileType.NotFound else bool(kind == pafs.FileType.Directory)
