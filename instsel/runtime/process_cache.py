"""A cache of what a worker process has loaded, for the next task that Ray sends to it.

Tasks share processes, where each actor has a process of its own: work that comes as tasks spares the start of a process
and its imports, and this cache spares the loading.
"""

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

# Longer than a process waits between two tasks of a stage. Idle processes outlive the stage, and no task can be sent to
# a certain process, so each empties its cache by itself.
IDLE_SECONDS = 60.0

_CACHE: dict[str, object] = {}
_LOCK = threading.Lock()
_TIMERS: list[threading.Timer] = []


def new_key() -> str:
    """Return a key that is in no cache yet: each run of a stage has its own, so that no task gets outdated values."""
    return uuid.uuid4().hex


@contextmanager
def kept_in_process(key: str, load: Callable[[], T]) -> Iterator[T]:
    """Give the block what this process keeps under `key`, loaded now if nothing is; values of other keys are dropped.

    The value is dropped `IDLE_SECONDS` after the block, unless another block uses it before.
    """
    with _LOCK:
        _stop_timers()
        if key not in _CACHE:
            _CACHE.clear()
            _CACHE[key] = load()
        value: T = _CACHE[key]  # type: ignore[assignment]
    try:
        yield value
    finally:
        with _LOCK:
            _stop_timers()
            timer = threading.Timer(IDLE_SECONDS, _empty)
            timer.daemon = True
            _TIMERS.append(timer)
            timer.start()


def _stop_timers() -> None:
    while _TIMERS:
        _TIMERS.pop().cancel()


def _empty() -> None:
    with _LOCK:
        if threading.current_thread() in _TIMERS:
            _TIMERS.clear()
            _CACHE.clear()
