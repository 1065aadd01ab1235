"""Real pip, with a folder in place of PyPI."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from instsel.errors import InputError
from instsel.quickstart.wheels import fetch_wheel

MakeWheel = Callable[[str, dict[str, bytes]], Path]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let pip find wheels in a folder and nowhere else."""

    def from_folder(folder: Path) -> None:
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    return from_folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.process
def test_downloads_checks_and_keeps_the_wheel(tmp_path: Path, make_wheel: MakeWheel, serve: Callable) -> None:
    wheel = make_wheel("tiny_thing", {"a.txt": b"a"})
    digest = sha256(wheel)
    serve(wheel.parent)
    cache = tmp_path / "cache"

    fetched = fetch_wheel("tiny-thing==1.0", digest, cache)

    assert fetched == cache / "tiny_thing-1.0-py3-none-any.whl"
    assert sha256(fetched) == digest
    assert [path.name for path in cache.iterdir()] == [fetched.name]
    serve(tmp_path / "nowhere")
    assert fetch_wheel("tiny-thing==1.0", digest, cache) == fetched


@pytest.mark.process
def test_a_damaged_wheel_in_the_cache_is_fetched_again(tmp_path: Path, make_wheel: MakeWheel, serve: Callable) -> None:
    wheel = make_wheel("tiny_thing", {"a.txt": b"a"})
    serve(wheel.parent)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / wheel.name).write_bytes(wheel.read_bytes()[:50])

    assert sha256(fetch_wheel("tiny-thing==1.0", sha256(wheel), cache)) == sha256(wheel)


@pytest.mark.process
def test_another_file_under_that_name_is_refused(tmp_path: Path, make_wheel: MakeWheel, serve: Callable) -> None:
    wheel = make_wheel("tiny_thing", {"a.txt": b"something else"})
    serve(wheel.parent)
    cache = tmp_path / "cache"

    with pytest.raises(InputError) as caught:
        fetch_wheel("tiny-thing==1.0", "0" * 64, cache)

    assert sha256(wheel) in str(caught.value)
    assert "0" * 64 in str(caught.value)
    assert not list(cache.iterdir())


@pytest.mark.process
def test_no_index_says_what_was_tried_and_what_to_do(tmp_path: Path, serve: Callable) -> None:
    serve(tmp_path)
    cache = tmp_path / "cache"

    with pytest.raises(InputError) as caught:
        fetch_wheel("tiny-thing==1.0", "0" * 64, cache)

    message = str(caught.value)
    assert "-m pip download --no-deps" in message
    assert "tiny-thing==1.0" in message
    assert "PyPI" in message
    assert str(cache / "tiny_thing-1.0-py3-none-any.whl") in message
    assert not list(cache.iterdir())
