"""What a person sees of a run: bars on a terminal, plain lines elsewhere, and all of it in the log."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from instsel import console as progress
from instsel.console import Terminal, log, log_to


class Clock:
    """Seconds that pass when a test says so."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that bars look at."""
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


@pytest.fixture
def terminal() -> Callable[..., tuple[Terminal, io.StringIO]]:
    """Makes a terminal, a real one or a file, and what it shows."""

    def make(*, real: bool = False) -> tuple[Terminal, io.StringIO]:
        shown = io.StringIO()
        return Terminal(Console(file=shown, force_terminal=real, width=120, soft_wrap=True)), shown

    return make


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """A log file of an earlier run."""
    (tmp_path / "run.log").write_text("earlier\n")
    with log_to(tmp_path / "run.log"):
        yield tmp_path / "run.log"


def test_an_error_that_ends_a_run_is_logged_and_the_file_let_go(tmp_path: Path) -> None:
    before = list(log.handlers)
    with pytest.raises(ValueError, match="too far"), log_to(tmp_path / "run.log"):
        raise ValueError("too far")
    assert "ERROR too far" in (tmp_path / "run.log").read_text()
    assert log.handlers == before


def test_elsewhere_a_line_comes_now_and_then_with_rate_and_time_left(
    terminal: Callable[..., tuple[Terminal, io.StringIO]], clock: Clock
) -> None:
    screen, shown = terminal()
    with screen.bar("features", 200, "rows") as bar:
        clock.now += 10
        bar.advance(10, 1000)
        assert shown.getvalue() == ""
        clock.now += 10
        bar.advance(40, 2000)
        bar.advance(1, 0)
    assert shown.getvalue() == "  features: 50/200 rows, 150 tokens/s, 60 s left\n"


def test_work_of_unknown_size_is_counted(terminal: Callable[..., tuple[Terminal, io.StringIO]], clock: Clock) -> None:
    screen, shown = terminal()
    with screen.bar("prepare", None, "rows") as bar:
        clock.now += 20
        bar.move_to(7, 0)
    assert shown.getvalue() == "  prepare: 7 rows\n"


def test_a_terminal_shows_a_bar_and_takes_it_away(terminal: Callable[..., tuple[Terminal, io.StringIO]]) -> None:
    screen, shown = terminal(real=True)
    with screen.bar("warmup", 4, "steps") as bar:
        bar.advance(3, 10)
        bar._progress.refresh()
        assert "3/4" in shown.getvalue()
        assert "steps" in shown.getvalue()
    assert shown.getvalue().endswith(("\x1b[1A\x1b[2K", "\x1b[2K"))


def test_the_bar_ends_when_the_work_fails(terminal: Callable[..., tuple[Terminal, io.StringIO]]) -> None:
    screen, _ = terminal(real=True)
    with pytest.raises(RuntimeError), screen.bar("warmup", 4, "steps") as bar:
        raise RuntimeError
    assert not bar._progress.live.is_started


def test_lines_are_shown_as_they_are(terminal: Callable[..., tuple[Terminal, io.StringIO]]) -> None:
    screen, shown = terminal()
    screen.head("prepare [bold]")
    screen.say("row [1] of {2}: " + "x" * 200)
    screen.result("| a | b |\n|---|---|\n| 1 | **2** |")
    assert shown.getvalue() == (
        "prepare [bold]\n  row [1] of {2}: " + "x" * 200 + "\n| a | b |\n|---|---|\n| 1 | **2** |\n"
    )


def test_a_terminal_renders_the_report(terminal: Callable[..., tuple[Terminal, io.StringIO]]) -> None:
    screen, shown = terminal(real=True)
    screen.result("# Head\n\n| a | b |\n|---|---|\n| 1 | **2** |")
    assert "**2**" not in shown.getvalue()
    assert "2" in shown.getvalue()


def test_the_log_file_goes_on_with_what_was_said_and_more(
    terminal: Callable[..., tuple[Terminal, io.StringIO]], log_file: Path, clock: Clock
) -> None:
    screen, shown = terminal()
    screen.head("prepare")
    screen.say("été 😀")
    with screen.bar("prepare", 3, "rows") as bar:
        clock.now += 4
        bar.advance(3, 12)
    text = log_file.read_text(encoding="utf-8")
    assert text.startswith("earlier\n")
    assert "INFO prepare\n" in text
    assert "INFO été 😀\n" in text
    assert "DEBUG prepare: 3/3 rows, 3 tokens/s, 0 s left\n" in text
    assert "INFO prepare: 3 rows, 12 tokens in 4.0 s\n" in text
    assert "tokens" not in shown.getvalue()


ATTACK = "red \x1b[31m\x1b]0;title\x07\r\x9b2J"
SPELLED = r"red \x1b[31m\x1b]0;title\x07\x0d\x9b2J"


@pytest.mark.parametrize("real", [False, True])
def test_what_is_told_does_not_steer_the_terminal_or_the_log(
    real: bool, terminal: Callable[..., tuple[Terminal, io.StringIO]], tmp_path: Path
) -> None:
    told, shown = terminal(real=real)
    with log_to(tmp_path / "log"):
        told.say(ATTACK)
        told.head(ATTACK)
        log.debug("ray: %s", ATTACK)
    told.raw(ATTACK)
    told.result(f"    {ATTACK}\n")
    assert shown.getvalue().count(SPELLED) == 4
    assert "\x1b]0;" not in shown.getvalue()
    assert "\x9b" not in shown.getvalue()
    assert (tmp_path / "log").read_text().count(SPELLED) == 3
    assert "\x1b" not in (tmp_path / "log").read_text()
