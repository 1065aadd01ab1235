"""Fingerprints of inputs by all their content, independent of names and modification times."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import xxhash
from pyarrow import fs as pafs
from pydantic import JsonValue

from instsel.errors import InputError
from instsel.io.cloud_store import cloud_handler
from instsel.io.digests import digest_file
from instsel.io.object_store import S3
from instsel.io.store import Folder
from instsel.io.uri import resolve

# By which a store says that an object is another one; which of them there are depends on the store.
# Of content first: an ETag of Google or Azure changes with every write of the same bytes.
CHECKSUMS = ("md5hash", "content_md5", "md5", "crc32c", "checksum", "etag")
BLOCK = 8 << 20
# Reading from several disks or servers at once; a digest takes less time than reading.
THREADS = 4


def fingerprint(value: Any) -> str:
    """Return the hex digest of a JSON value; equal values give equal digests in any process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_identity(uri: str) -> dict[str, JsonValue]:
    """Return size and digest of a file, by all its bytes, or by the checksum that its store keeps.

    Raises:
        InputError: the file does not exist, is a folder, or changes while it is read.
    """
    filesystem, path = resolve(uri)
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        raise InputError(f"file {uri} does not exist; correct the path")
    if not info.is_file:
        raise InputError(f"{uri} is a folder, but a file is expected; write {uri.rstrip('/')}/*.jsonl or similar")
    if isinstance(filesystem, pafs.LocalFileSystem):
        return {"bytes": info.size, "digest": digest_file(path)}
    checksum = _checksum(filesystem, path)
    return {"bytes": info.size, "digest": _digest_of_bytes(filesystem, info, uri) if checksum is None else checksum}


def file_digests(uris: Iterable[str]) -> list[str]:
    """Return the digests of files, see `file_identity`; several files are read at a time."""
    with ThreadPoolExecutor(THREADS) as threads:
        return [str(identity["digest"]) for identity in threads.map(file_identity, uris)]


def digest_in(folder: Folder, name: str) -> str:
    """Return the digest of the bytes of a file in a folder, which may be remote."""
    path = f"{folder.path}/{name}"
    if folder.is_local:
        return digest_file(path)
    return _digest_of_bytes(folder.filesystem, folder.filesystem.get_file_info(path), f"{folder}/{name}")


def tokenizer_identity(tokenizer: Any) -> dict[str, str]:
    """Return digests of the tokenizer as loaded, with its special tokens, and of its chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = tokenizer.get_vocab() if backend is None else backend.to_str()
    return {
        "tokenizer": fingerprint([text, tokenizer.special_tokens_map]),
        "template": fingerprint(tokenizer.chat_template),
    }


def _checksum(filesystem: pafs.FileSystem, path: str) -> str | None:
    """Return the checksum that a store keeps of an object, without reading it; None where it keeps none."""
    if isinstance(filesystem, S3):
        described: Mapping[Any, Any] = filesystem.describe(path)
    elif (cloud := cloud_handler(filesystem)) is not None:
        described = cloud.describe(path)
    elif isinstance(filesystem, pafs.PyFileSystem) and isinstance(filesystem.handler, pafs.FSSpecHandler):
        described = filesystem.handler.fs.info(path)
    else:
        with filesystem.open_input_stream(path) as stream:
            described = stream.metadata() or {}
    plain = {_text(name).lower().replace("-", "_"): _text(value) for name, value in described.items() if value}
    name = next((name for name in CHECKSUMS if name in plain), None)
    return None if name is None else f"{name}:{plain[name].strip(chr(34))}"


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _digest_of_bytes(filesystem: pafs.FileSystem, info: pafs.FileInfo, uri: str) -> str:
    digest, size = xxhash.xxh3_128(), 0
    with filesystem.open_input_file(info.path) as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            size += len(block)
    after = filesystem.get_file_info(info.path)
    if size != info.size or (after.size, after.mtime_ns) != (info.size, info.mtime_ns):
        raise InputError(f"{uri} changed while it was read; wait until it is whole, and run the same command again")
    return digest.hexdigest()
