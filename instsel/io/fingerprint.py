"""Fingerprints of inputs by their content, independent of names and modification times."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pyarrow import fs as pafs
from pydantic import JsonValue

from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.io.uri import resolve

BLOCK = 1 << 20
BLOCKS = 16
MODEL_ENDINGS = {".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".py"}


def fingerprint(value: Any) -> str:
    """Return the hex digest of a JSON value; equal values give equal digests in any process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_identity(uri: str) -> dict[str, JsonValue]:
    """Return size and digest of a file: of all content up to 16 MiB, else of the size and 16 evenly spaced MiB.

    Raises:
        InputError: the file does not exist, or is a folder.
    """
    filesystem, path = resolve(uri)
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        raise InputError(f"file {uri} does not exist; correct the path")
    if not info.is_file:
        raise InputError(f"{uri} is a folder, but a file is expected; write {uri.rstrip('/')}/*.jsonl or similar")
    return {"bytes": info.size, "sha256": _digest(filesystem, info)}


def digest_in(folder: Folder, name: str) -> str:
    """Return the digest of `file_identity` for a file in a folder, which may be remote."""
    return _digest(folder.filesystem, folder.filesystem.get_file_info(f"{folder.path}/{name}"))


def model_identity(name: str, revision: str | None, key: str = "model.name") -> dict[str, JsonValue]:
    """Identify a model: a local folder by the content of its files, a hub model by id and revision.

    Raises:
        InputError: a local folder has no config.json; the message names `key`.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return {"hub": name, "revision": revision}
    if not (folder / "config.json").is_file():
        raise InputError(f"{key}: {name} is a folder without a config.json; give a Hugging Face model folder")
    files = sorted(path for path in folder.iterdir() if path.suffix in MODEL_ENDINGS)
    return {path.name: file_identity(str(path))["sha256"] for path in files}


def encoder_identity(name: str, revision: str | None) -> dict[str, JsonValue]:
    """Identify a text encoder: as `model_identity`, plus the configurations of the modules in its folder.

    Raises:
        InputError: a local folder has no config.json.
    """
    folder = Path(name).expanduser()
    modules = sorted(folder.glob("*/config.json")) if folder.is_dir() else []
    configured = {f"{path.parent.name}/{path.name}": file_identity(str(path))["sha256"] for path in modules}
    return {**model_identity(name, revision, "embedding.encoder"), **configured}


def tokenizer_identity(tokenizer: Any) -> dict[str, str]:
    """Return digests of the tokenizer as loaded, with its special tokens, and of its chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = tokenizer.get_vocab() if backend is None else backend.to_str()
    return {
        "tokenizer": fingerprint([text, tokenizer.special_tokens_map]),
        "template": fingerprint(tokenizer.chat_template),
    }


def _digest(filesystem: pafs.FileSystem, info: pafs.FileInfo) -> str:
    digest = hashlib.sha256(str(info.size).encode())
    with filesystem.open_input_file(info.path) as stream:
        if info.size <= BLOCK * BLOCKS:
            digest.update(stream.read())
        else:
            for step in range(BLOCKS):
                stream.seek(step * (info.size - BLOCK) // (BLOCKS - 1))
                digest.update(stream.read(BLOCK))
    return digest.hexdigest()[:32]
