"""Paths and URIs in a study file: checks, file systems, globs."""

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
            f"{uri.partition('?')[0]} has options after a question mark, which are not read; put the endpoint into "
            "AWS_ENDPOINT_URL, in the environment of every machine"
        )
    return uri


def resolve(uri: str | Path) -> tuple[pafs.FileSystem, str]:
    """Return file system and path of a local path or URI.

    Raises:
        InputError: the URI's scheme is unknown, its package is not installed, its server does not answer, or it
            contains a secret or options.
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


def expand(pattern: str) -> list[str]:
    """Expand a glob in the last part of a path or URI to sorted files; return other paths unchanged."""
    if not any(char in pattern for char in "*?["):
        return [pattern]
    parent, _, last = pattern.rpartition("/")
    filesystem, path = resolve(parent or ".")
    infos = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    names = sorted(info.base_name for info in infos if info.type != pafs.FileType.Directory)
    return [f"{parent}/{name}" if parent else name for name in names if fnmatch(name, last)]
