"""What a process keeps between tasks."""

import time

import pytest

from instsel.runtime import process_cache
from instsel.runtime.process_cache import kept_in_process, new_key


def get(key: str, value: str) -> str:
    with kept_in_process(key, lambda: value) as kept:
        return kept


def test_a_value_is_kept_until_another_key_comes() -> None:
    first, second = new_key(), new_key()
    assert [get(first, "a"), get(first, "b"), get(second, "c"), get(first, "d")] == ["a", "a", "c", "d"]


def test_a_value_that_is_no_longer_used_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last tokenizer or matrix of directions stayed in idle processes until the end of the study."""
    monkeypatch.setattr(process_cache, "IDLE_SECONDS", 0.05)
    key = new_key()
    with kept_in_process(key, lambda: "a"):
        time.sleep(0.2)
        assert process_cache._CACHE == {key: "a"}
    deadline = time.monotonic() + 10
    while process_cache._CACHE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process_cache._CACHE == {}
    assert get(key, "b") == "b"
