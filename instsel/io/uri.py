"""Where a study's files are: what a place in a study file may look like."""

import os
import re
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa
from pyarrow import fs as pafs

from instsel.errors import InputError
from instsel.io.object_store import SCHEME, s3

SECRET = re.compile(r"^(?:s3://[^/]*[:@]|[\w+.-]+://[^/@]*:[^/@]*@)")
OPTIONS = re.compile(r"^s3://[^?]*\?[^/]*=")


def checked_uri(place: str) -> str:
    """The place itself, a path, URI, glob or hub id.

    Raises:
        ValueError: it is a URI with a secret, which would stand in manifests and logs, or an S3 URI with options. The
            message does not repeat it.
    """
    if SECRET.match(place):
        scheme = place.partition("://")[0]
        raise ValueError(
            f"a {scheme}:// URI with a key or password, which would be written into manifests and logs; remove it from "
            "the URI and put it into the environment of every machine (S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
    if OPTIONS.match(place):
        raise ValueError(
            f"{place.partition('?')[0]} has options after a question mark, which are not read; put the endpoint into "
            "AWS_ENDPOINT_URL, in the environment of every machine"
        )
    return place


def resolve(uri: str | Path) -> tuple[pafs.FileSystem, str]:
    """File system and path of a local path or URI.

    Raises:
        InputError: the URI's scheme is unknown, its package is not installed, what it names does not answer, or it
            holds a secret or options.
    """
    text = str(uri)
    if "://" not in text:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(text))
    try:
        checked_uri(text)
    except ValueError as error:
        raise InputError(str(error)) from error
    try:
        if text.startswith(SCHEME):
            return s3(text)
        return pafs.FileSystem.from_uri(text)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return _by_fsspec(text)
    except OSError as error:
        raise InputError(f"{text}: {error}; correct it or make it reachable") from error


def _by_fsspec(text: str) -> tuple[pafs.FileSystem, str]:
    """Of a URI whose scheme pyarrow does not know."""
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(text)
    except (ImportError, ValueError) as error:
        raise InputError(f"{text}: {error}; use a local path or a URI that pyarrow or fsspec knows") from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


def under_root(root: str, place: str) -> str:
    """A pool or target place: URIs, hub ids and absolute paths as they are, others below `root`; ~ is home."""
    if "://" in place or place.startswith("hf:"):
        return place
    place = os.path.expanduser(place)
    if os.path.isabs(place):
        return place
    return f"{os.path.expanduser(root).rstrip('/')}/{place}"


def expand(pattern: str) -> list[str]:
    """Files that a path, URI or glob (in its last part) stands for, sorted; a path without a glob as it is."""
    if not any(sign in pattern for sign in "*?["):
        return [pattern]
    parent, _, last = pattern.rpartition("/")
    filesystem, path = resolve(parent or ".")
    infos = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    names = sorted(info.base_name for info in infos if info.type != pafs.FileType.Directory)
    return [f"{parent}/{name}" if parent else name for name in names if fnmatch(name, last)]
