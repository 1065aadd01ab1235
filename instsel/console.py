"""What a person sees: the terminal, progress, the log, and text that no terminal misreads."""

import io
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

log = logging.getLogger("instsel")
log.addHandler(logging.NullHandler())
LINE_SECONDS = 15.0


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append everything that is told, and more, to a file while the block runs; an error that ends it, too."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    except Exception as error:
        log.error("%s", error)
        raise
    finally:
        log.removeHandler(handler)
        handler.close()


class _Printable(logging.Formatter):
    """Lines of a log that can be shown on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class Bar:
    """Progress of one stage: work done out of a total that may not be known, and the tokens it took."""

    def __init__(self, console: Console, name: str, total: int | None, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done, self.tokens = 0, 0
        self._console = console
        self._start = self._said = time.monotonic()
        self._progress: Progress | None = None
        self._task = TaskID(0)
        if console.is_terminal:
            columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn())
            rate = TextColumn("{task.fields[unit]}  {task.fields[rate]}")
            self._progress = Progress(*columns, rate, TimeRemainingColumn(), console=console, transient=True)
            self._task = self._progress.add_task(name, total=total, unit=unit, rate="")
            self._progress.start()

    def advance(self, done: int, tokens: int = 0) -> None:
        """Count work and tokens that were just finished."""
        self.move_to(self.done + done, self.tokens + tokens)

    def move_to(self, done: int, tokens: int) -> None:
        """Set the work and tokens finished so far."""
        self.done, self.tokens = done, tokens
        now = time.monotonic()
        if self._progress:
            self._progress.update(self._task, completed=done, rate=self.rate)
        elif now - self._said >= LINE_SECONDS:
            self._said = now
            self._console.print(f"  {self.name}: {self._state(now)}", highlight=False)
        log.debug("%s: %s", self.name, self._state(now))

    @property
    def rate(self) -> str:
        """Tokens a second since the bar was made, as text; empty before there is any."""
        elapsed = time.monotonic() - self._start
        return f"{self.tokens / elapsed:,.0f} tokens/s" if self.tokens and elapsed > 0.5 else ""

    def _state(self, now: float) -> str:
        parts = [f"{self.done}/{self.total} {self.unit}" if self.total else f"{self.done} {self.unit}", self.rate]
        if self.total and self.done:
            left = (now - self._start) * (self.total - self.done) / self.done
            parts.append(f"{left:.0f} s left")
        return ", ".join(part for part in parts if part)

    def close(self) -> float:
        """Take the bar away; return the seconds since it was made."""
        if self._progress:
            self._progress.stop()
        return time.monotonic() - self._start


class _LogLines(io.TextIOBase):
    """A stream whose lines go to the log."""

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.strip():
                log.debug("%s", line.rstrip())
        return len(text)


class Terminal:
    """Where a study tells what it does."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line of a stage and log it."""
        self._console.print(f"  {printable(text)}", highlight=False, markup=False)
        log.info("%s", text)

    def head(self, text: str) -> None:
        """Print the line that starts a stage and log it."""
        self._console.print(printable(text), style="bold", highlight=False, markup=False)
        log.info("%s", text)

    def raw(self, text: str) -> None:
        """Print a piece of another log, which may end within a line."""
        self._console.print(printable(text), end="", highlight=False, markup=False)

    def result(self, markdown: str) -> None:
        """Show a result that is written in Markdown."""
        # Here, since most processes that import this module show no report.
        from rich.markdown import Markdown

        text = printable(markdown)
        shown = Markdown(text) if self._console.is_terminal else text
        self._console.print(shown, highlight=False, markup=False)

    def table(self, *forms: Table) -> None:
        """Show a table in the first of its forms that fits on a line, or in the last one."""
        endless = self._console.options.update(max_width=2**16)
        fits = (form for form in forms if Measurement.get(self._console, endless, form).maximum <= self._console.width)
        self._console.print(next(fits, forms[-1]))

    def data(self, value: Any) -> None:
        """Print a value as JSON, for a machine to read."""
        self._console.out(json.dumps(value, indent=2), highlight=False)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Send what others print while the block runs to the log."""
        # Bound now, as it else looks for the standard output of the moment.
        self._console.file = self._console.file
        with redirect_stdout(_LogLines()):
            yield

    @contextmanager
    def bar(self, name: str, total: int | None, unit: str) -> Iterator[Bar]:
        """Show the progress of a stage while the block runs."""
        bar = Bar(self._console, name, total, unit)
        try:
            yield bar
        finally:
            seconds = bar.close()
            log.info("%s: %d %s, %d tokens in %.1f s", name, bar.done, unit, bar.tokens, seconds)


TAG = re.compile(r"<(?=[A-Za-z/!?])")
# Escape sequences begin with ESC or a C1 sign; the others move what stands on the line, or turn it round.
_CONTROLS = {*range(0x20), 0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {0x09, 0x0A}
_SPELLED = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS}


def printable(text: str) -> str:
    r"""The text with its control signs but newline and tab spelled out, as in `\x1b`."""
    return text.translate(_SPELLED)


def one_line(text: str) -> str:
    """The text as one line of printable signs, with single spaces."""
    return printable(" ".join(text.split()))


def inline(text: str) -> str:
    """The text as part of a line of Markdown or as a cell of its tables: no link, picture, HTML or further cell.

    Emphasis is left: it does no harm, and names such as `a_b` stay readable.
    """
    for sign, safe in (("\\", "\\\\"), ("|", "\\|"), ("](", "]\\("), ("\n", " ")):
        text = text.replace(sign, safe)
    # A sign before a space or digit begins no HTML, and tables are read as they are, too: < 1 s.
    return TAG.sub(r"\\<", text)


@contextmanager
def capture_native_stderr(path: Path) -> Iterator[None]:
    """Append to a file what C++ code writes to standard error while the block runs; Python's own output is not touched.

    Ray's C++ side writes notices there that a user cannot act on, whatever level its Python loggers have.
    """
    sys.stderr.flush()
    terminal, ours = os.dup(2), sys.stderr
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    if _is_descriptor_2(ours):
        sys.stderr = os.fdopen(os.dup(terminal), "w", buffering=1, encoding=ours.encoding, errors=ours.errors)
    try:
        yield
    finally:
        if sys.stderr is not ours:
            sys.stderr.close()
            sys.stderr = ours
        os.dup2(terminal, 2)
        os.close(terminal)


def _is_descriptor_2(stream: object) -> bool:
    try:
        return getattr(stream, "fileno", lambda: None)() == 2
    except OSError:
        return False
