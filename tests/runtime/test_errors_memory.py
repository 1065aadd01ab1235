"""Reports of memory that ran out: once, and again where it is much less."""

import pytest

from instsel.console import Terminal
from instsel.runtime.errors import Shortage


def test_memory_that_holds_half_as_much_again_is_reported_again(capsys: pytest.CaptureFixture[str]) -> None:
    shortage = Shortage("features.token_budget", 4096, Terminal())
    for budget, recompute in [(4096, False), (2048, False), (1100, False), (1024, False), (1024, True), (1024, True)]:
        shortage.look(budget, recompute)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" at most ")[2].partition(" ")[0] for line in lines] == ["2048", "1024", "1024"]
    assert ["recomputed" in line for line in lines] == [False, False, True]
    assert all("(features.token_budget is 4096)" in line for line in lines)
