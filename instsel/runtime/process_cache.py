"""What a process keeps for the next task that is sent to it.

Tasks share processes, where each actor has one of its own: work that comes as tasks spares the start of a process and
its imports, and keeps here what took long to load.
"""

import uuid
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_KEPT: dict[str, object] = {}


def new_key() -> str:
    """A key that nothing has yet: made anew for each run of a stage, so that no task meets what is outdated."""
    return uuid.uuid4().hex


def kept_in_process(key: str, make: Callable[[], T]) -> T:
    """What this process made under `key`, else what `make` makes now; what it kept under another key is let go."""
    if key not in _KEPT:
        _KEPT.clear()
        _KEPT[key] = make()
    return _KEPT[key]  # type: ignore[return-value]
