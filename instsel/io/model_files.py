"""The files that a model is made of, in a local folder or behind a URI, and what identifies them: their content."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import JsonValue

from instsel.errors import InputError
from instsel.io.fingerprint import file_digests
from instsel.io.store import Folder
from instsel.io.uri import LOCAL, resolve

ModelKey = Literal["model.name", "embedding.encoder"]

CONFIG = "config.json"
WEIGHTS = ".safetensors"
MODEL_ENDINGS = {".json", WEIGHTS, ".bin", ".model", ".txt", ".tiktoken", ".jinja", ".py"}
# Pickles are not read, so they are neither copied nor part of the content of a model behind a URI.
REMOTE_ENDINGS = MODEL_ENDINGS - {".bin"}
# Below the folder lie configurations of an encoder's modules and more templates, but also weights in other formats.
ENDINGS_BELOW = {".json", ".txt", ".jinja", ".py"}
CONTENT = re.compile(r"[0-9a-f]{32}")


class RemoteFile(NamedTuple):
    """A file of a model behind a URI: its size, and its digest or the checksum that the store keeps."""

    bytes: int
    digest: str


def is_remote(name: str) -> bool:
    """Return whether the name of a model is a URI of a store: no local folder, `file://` or id of the hub."""
    return "://" in name and not name.startswith(LOCAL)


def local_folder(name: str) -> Path:
    """Return the path that the name of a model is, if it is one: `file://` taken off, ~ expanded."""
    return Path(resolve(name)[1]) if name.startswith(LOCAL) else Path(name).expanduser()


def model_identity(name: str, revision: str | None, key: ModelKey = "model.name") -> dict[str, JsonValue]:
    """Identify a model: a folder by the content of its files, behind a URI too, a hub model by id and revision.

    Args:
        name: of the model.
        revision: of a hub model; of one behind a URI the content, if it is known.
        key: of the study file that names it.

    Raises:
        InputError: a folder has no config.json, or there is none behind the URI; the message names `key`.
    """
    if is_remote(name):
        return {"content": revision or content_of(remote_files(name, key))}
    folder = local_folder(name)
    if not folder.is_dir():
        return {"hub": name, "revision": revision}
    if not (folder / CONFIG).is_file():
        raise InputError(f"{key}: {name} is a folder without a {CONFIG}; give a Hugging Face model folder")
    return _digests(folder, [path for path in folder.iterdir() if path.suffix in MODEL_ENDINGS and path.is_file()])


def encoder_identity(name: str, revision: str | None) -> dict[str, JsonValue]:
    """Identify a text encoder: as `model_identity`, plus the configurations of the modules in its folder.

    Raises:
        InputError: as `model_identity`.
    """
    folder = local_folder(name)
    modules = [] if is_remote(name) or not folder.is_dir() else list(folder.glob(f"*/{CONFIG}"))
    return {**model_identity(name, revision, "embedding.encoder"), **_digests(folder, modules)}


def remote_files(uri: str, key: ModelKey) -> dict[str, RemoteFile]:
    """List the files of a model behind a URI by their paths below it; none is read if the store keeps checksums.

    Raises:
        InputError: there is no such bucket or folder, it is not a model's, or it may not be read; names `key`.
        StudyError: the store does not answer.
    """
    with errors_named(uri, key):
        folder = Folder.at(uri)
        sizes = {info.path[len(folder.path) :].lstrip("/"): info.size for info in folder.infos()}
        if not sizes:
            raise InputError(f"{uri}: there is no such bucket or folder, or nothing is in it; correct the name")
        if CONFIG not in sizes:
            raise InputError(f"{uri} is a folder without a {CONFIG}; give a Hugging Face model folder")
        names = sorted(filter(_belongs, sizes))
        digests = file_digests(f"{uri.rstrip('/')}/{name}" for name in names)
    return {name: RemoteFile(sizes[name], digest) for name, digest in zip(names, digests, strict=True)}


def names_behind(uri: str) -> set[str]:
    """Return the names of files and folders in a folder behind a URI."""
    return set(Folder.at(uri).names())


def content_of(files: Mapping[str, RemoteFile]) -> str:
    """Return the digest of files and their names, by which a model behind a URI is pinned."""
    text = json.dumps({name: list(file) for name, file in files.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def checked_content(revision: str | None, key: ModelKey) -> str | None:
    """Check what a study file says of the revision of a model behind a URI.

    Raises:
        InputError: it is no digest of content.
    """
    if revision is None or CONTENT.fullmatch(revision):
        return revision
    raise InputError(
        f"{key.partition('.')[0]}.revision: {revision} is a revision of the hub, but {key} is a folder behind a URI, "
        "which is pinned by its content; remove the revision"
    )


@contextmanager
def errors_named(uri: str, key: ModelKey) -> Iterator[None]:
    """Let an error about a model behind a URI name the key of the study file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
    except OSError as error:
        raise InputError(
            f"{key}: {uri} cannot be read: {error}; correct the name, or give every machine credentials that may list "
            "and read there"
        ) from error


def _belongs(name: str) -> bool:
    parts = name.split("/")
    if any(part.startswith(".") or part == ".." for part in parts):
        return False
    return Path(name).suffix in (REMOTE_ENDINGS if len(parts) == 1 else ENDINGS_BELOW)


def _digests(folder: Path, files: list[Path]) -> dict[str, JsonValue]:
    """Return the digests of files below a folder by their paths there."""
    names = sorted(file.relative_to(folder).as_posix() for file in files)
    return dict(zip(names, file_digests(f"{folder}/{name}" for name in names), strict=True))
