"""A model behind a URI: copied once a machine, pinned by content, and all that can be wrong with it."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from instsel.config.study import Embedding, Model
from instsel.errors import InputError, StudyError
from instsel.io import model_copies
from instsel.io.model_copies import local_copy
from instsel.io.model_files import content_of, encoder_identity, model_identity, remote_files
from instsel.io.store import Folder
from instsel.models.checks import most_positions
from instsel.models.embeddings import Encoder
from instsel.models.loading import load_base, load_tokenizer, parameter_count, stored_dtype
from tests.object_store import ObjectStore

URI = "s3://studies/models/toy"
KEY = "model.name"
COPYING = (
    "import sys\nfrom instsel.io.model_copies import local_copy\nprint(local_copy(sys.argv[1], None, 'model.name'))\n"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the copies, of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/instsel/models"


@pytest.fixture
def remote(object_store: ObjectStore, cache: Path, tiny_model: Path) -> Folder:
    """The toy model in the store, with files that are none of a model's."""
    folder = put_model(tiny_model)
    folder.write("README.md", b"# toy")
    folder.write("pytorch_model.bin", b"pickle")
    (folder / "original").write("consolidated.safetensors", b"w" * 10_000)
    (folder / ".cache").write("x.json", b"{}")
    return folder


def put_model(model: Path, uri: str = URI) -> Folder:
    """Put a model's folder into the store."""
    folder = Folder.at(uri)
    for file in model.rglob("*"):
        if file.is_file():
            below = file.parent.relative_to(model).as_posix()
            (folder if below == "." else folder / below).put(file.name, file)
    return folder


def _names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_a_model_behind_a_uri_is_that_of_its_folder(remote: Folder, cache: Path, tiny_model: Path) -> None:
    model = Model(name=URI, dtype="float32")
    assert load_tokenizer(model).get_vocab() == load_tokenizer(Model(name=str(tiny_model))).get_vocab()
    assert most_positions(URI) == most_positions(str(tiny_model)) == 256
    assert (stored_dtype(model), parameter_count(model)) == ("float32", parameter_count(Model(name=str(tiny_model))))
    # That takes none of the weights.
    (small,) = [place for place in cache.iterdir() if place.is_dir()]
    assert "model.safetensors" not in _names(small) and "tokenizer.json" in _names(small)

    base, local = load_base(model), load_base(Model(name=str(tiny_model), dtype="float32"))
    assert all((one == two).all() for one, two in zip(base.parameters(), local.parameters(), strict=True))
    # What PEFT writes into the adapters.
    assert base.name_or_path == URI
    (whole,) = [place for place in cache.iterdir() if place.is_dir() and place != small]
    assert _names(whole) == _names(tiny_model)
    assert not list(cache.glob(".*.part"))


def test_a_file_uri_is_a_local_model(tiny_model: Path) -> None:
    uri = f"file://{tiny_model}"
    assert model_identity(uri, None) == model_identity(str(tiny_model), None)
    assert load_tokenizer(Model(name=uri)).get_vocab() == load_tokenizer(Model(name=str(tiny_model))).get_vocab()


def test_an_encoder_may_be_behind_a_uri(object_store: ObjectStore, cache: Path, tiny_encoder: Path) -> None:
    folder = put_model(tiny_encoder)
    texts = ["a basket of plums", "a train to Oslo"]
    encoders = [Encoder(Embedding(encoder=name, max_length=32)) for name in (URI, str(tiny_encoder))]
    vectors = [encoder.embed(encoder.tokenise(texts)) for encoder in encoders]
    assert (vectors[0] == vectors[1]).all()
    before = encoder_identity(URI, None)
    (folder / "1_Pooling").write("config.json", json.dumps({"pooling_mode_cls_token": True}).encode())
    assert encoder_identity(URI, None) != before


def test_content_is_the_identity(remote: Folder, cache: Path, tiny_model: Path) -> None:
    content = content_of(remote_files(URI, KEY))
    assert model_identity(URI, None) == {"content": content} == model_identity(URI, content)
    put_model(tiny_model, "s3://studies/again")
    assert content_of(remote_files("s3://studies/again", KEY)) == content
    remote.write("README.md", b"other words")
    assert content_of(remote_files(URI, KEY)) == content
    remote.write("generation_config.json", b"{}")
    assert content_of(remote_files(URI, KEY)) != content


def test_a_model_that_changed_is_never_taken_for_the_one_that_is_pinned(remote: Folder, cache: Path) -> None:
    content = content_of(remote_files(URI, KEY))
    first = local_copy(URI, content, KEY, weights=False)
    weights = bytearray(remote.read("model.safetensors"))
    weights[-1] ^= 1
    remote.write("model.safetensors", bytes(weights))
    # The copy that is there already is of the one that is pinned.
    assert local_copy(URI, content, KEY, weights=False) == first
    with pytest.raises(InputError, match=rf"^model\.name: {URI} holds another model .* not {content}; put the files"):
        local_copy(URI, content, KEY)
    after = local_copy(URI, None, KEY)
    assert after != first
    assert (after / "model.safetensors").read_bytes() == bytes(weights)


def test_a_copy_needs_no_store(remote: Folder, cache: Path, object_store: ObjectStore) -> None:
    content = content_of(remote_files(URI, KEY))
    copy = local_copy(URI, content, KEY)
    object_store.stop()
    try:
        assert local_copy(URI, content, KEY) == local_copy(URI, content, KEY, weights=False) == copy
    finally:
        object_store.go_on()


def test_of_processes_at_once_one_copies(remote: Folder, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = threading.Barrier(4)

    def copy(_: int) -> str:
        started.wait()
        return subprocess.run(
            [sys.executable, "-c", COPYING, URI], capture_output=True, text=True, check=True
        ).stdout.strip()

    (cache.parent).mkdir(parents=True)
    before = time.time_ns()
    with ThreadPoolExecutor(4) as threads:
        places = set(threads.map(copy, range(4)))
    (place,) = map(Path, places)
    assert place.stat().st_mtime_ns > before
    assert [each.name for each in cache.iterdir() if each.is_dir()] == [place.name]
    # With what is there, none copies again.
    monkeypatch.setattr(model_copies, "_copy", None)
    assert local_copy(URI, None, KEY) == place


def test_where_nothing_can_be_locked_the_rename_decides(
    remote: Folder, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(model_copies.fcntl, "flock", refuse)
    started = threading.Barrier(3)

    def copy(_: int) -> Path:
        started.wait()
        return local_copy(URI, None, KEY)

    with ThreadPoolExecutor(3) as threads:
        (place,) = set(threads.map(copy, range(3)))
    assert (place / "model.safetensors").is_file()
    assert not list(cache.glob(".*.part"))


def test_a_copy_that_a_killed_process_left_is_made_anew(remote: Folder, cache: Path, object_store: ObjectStore) -> None:
    # Large enough that it is under way for a while, behind a store that then answers nothing.
    remote.write("model-2.safetensors", os.urandom(30 << 20))
    running = subprocess.Popen([sys.executable, "-c", COPYING, URI])
    while not list(cache.glob(".*.part")):
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert list(cache.glob(".*.part"))
    assert not [each for each in cache.iterdir() if each.is_dir() and not each.name.startswith(".")]
    copy = local_copy(URI, None, KEY)
    assert (copy / "model-2.safetensors").stat().st_size == 30 << 20
    assert not list(cache.glob(".*.part"))


def test_a_model_that_changes_while_it_is_copied_is_refused(
    remote: Folder, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = model_copies.sync_file

    def changing(path: str) -> None:
        rename(path)
        if path.endswith("model.safetensors"):
            remote.write("config.json", remote.read("config.json") + b"\n")

    monkeypatch.setattr(model_copies, "sync_file", changing)
    with pytest.raises(InputError, match=rf"^model\.name: {URI} changed while it was copied"):
        local_copy(URI, None, KEY)
    assert not [each for each in cache.iterdir() if each.is_dir()]


def test_a_full_disk_is_told(remote: Folder, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage("/")._replace(free=1000)
        patch.setattr(model_copies.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(StudyError, match=r"no space left for a copy of the model, 0\.0 GB, in .* XDG_CACHE_HOME"):
            local_copy(URI, None, KEY)
    assert not [each for each in cache.iterdir() if each.is_dir()]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_disk_that_fills_while_copying_is_told(remote: Folder, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_file = model_copies._copy_file

    def to_full(source: Folder, name: str, target: Path) -> None:
        if name == "model.safetensors":
            target.symlink_to("/dev/full")
        copy_file(source, name, target)

    monkeypatch.setattr(model_copies, "_copy_file", to_full)
    with pytest.raises(StudyError, match="no space left for a copy of the model"):
        local_copy(URI, None, KEY)
    assert not [each for each in cache.iterdir() if each.is_dir()]


def test_a_cache_that_cannot_be_written_is_told(remote: Folder, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="no model can be copied there .* set XDG_CACHE_HOME on every machine"):
        local_copy(URI, None, KEY)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://no-such-bucket/toy", "there is no such bucket or folder"),
        ("s3://studies/models/none", "there is no such bucket or folder, or nothing is in it; correct the name"),
        ("s3://studies/models", "is a folder without a config.json; give a Hugging Face model folder"),
        ("s3://studies/models/toy/config.json", "there is no such bucket or folder"),
        ("nosuchscheme://a/b", "use a local path or a URI"),
        ("https://example.com/toy", "is a web address"),
    ],
)
def test_what_is_no_model_is_told(remote: Folder, uri: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"^model\.name: {uri}.*{message}"):
        local_copy(uri, None, KEY)
    with pytest.raises(InputError, match=rf"^embedding\.encoder: {uri}.*{message}"):
        encoder_identity(uri, None)


@pytest.mark.usefixtures("keys_are_checked")
def test_a_model_that_may_not_be_read_is_told(cache: Path) -> None:
    with pytest.raises(InputError, match=rf"^model\.name: {URI}.* the store refuses .*AWS_ACCESS_KEY_ID"):
        local_copy(URI, None, KEY)


def test_a_revision_of_the_hub_means_nothing_behind_a_uri(remote: Folder) -> None:
    with pytest.raises(InputError, match=r"^model\.revision: main is a revision of the hub.* remove the revision"):
        local_copy(URI, "main", KEY)
