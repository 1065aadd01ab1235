"""Terminal output: messages, progress bars, the log file, and escaping of text from users and models."""

import io
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

log = logging.getLogger("instsel")
log.addHandler(logging.NullHandler())
LINE_SECONDS = 15.0


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append all log records, of any level, to a file while the block runs, and the error that ends it."""
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
    """Formats log records without control characters, so that the file can be shown on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class Bar:
    """Progress of a stage: work done out of a total, which may be unknown, and tokens."""

    def __init__(self, console: Console, name: str, total: int | None, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done, self.tokens = 0, 0
        self._console = console
        self._start = self._printed = time.monotonic()
        self._progress: Progress | None = None
        self._task = TaskID(0)
        if console.is_terminal:
            columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn())
            rate = TextColumn("{task.fields[unit]}  {task.fields[rate]}")
            self._progress = Progress(*columns, rate, TimeRemainingColumn(), console=console, transient=True)
            self._task = self._progress.add_task(name, total=total, unit=unit, rate="")
            self._progress.start()

    def advance(self, done: int, tokens: int = 0) -> None:
        """Add finished work and tokens."""
        self.move_to(self.done + done, self.tokens + tokens)

    def move_to(self, done: int, tokens: int) -> None:
        """Set the total of finished work and tokens."""
        self.done, self.tokens = done, tokens
        now = time.monotonic()
        if self._progress:
            self._progress.update(self._task, completed=done, rate=self.rate)
        elif now - self._printed >= LINE_SECONDS:
            self._printed = now
            self._console.print(f"  {self.name}: {self._state(now)}", highlight=False)
        log.debug("%s: %s", self.name, self._state(now))

    @property
    def rate(self) -> str:
        """Tokens per second since the start, as text; empty without tokens."""
        elapsed = time.monotonic() - self._start
        return f"{self.tokens / elapsed:,.0f} tokens/s" if self.tokens and elapsed > 0.5 else ""

    def _state(self, now: float) -> str:
        parts = [f"{self.done}/{self.total} {self.unit}" if self.total else f"{self.done} {self.unit}", self.rate]
        if self.total and self.done:
            seconds = (now - self._start) * (self.total - self.done) / self.done
            parts.append(f"{seconds:.0f} s left")
        return ", ".join(part for part in parts if part)

    def close(self) -> float:
        """Remove the bar; return the seconds since the start."""
        if self._progress:
            self._progress.stop()
        return time.monotonic() - self._start


class _LogLines(io.TextIOBase):
    """A text stream whose lines go to the log."""

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.strip():
                log.debug("%s", line.rstrip())
        return len(text)


class Terminal:
    """The terminal of a study, for people; everything printed is logged as well."""

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
        """Print the report of a finished study, rendered if the terminal can."""
        # Imported here, as most processes do not print a report.
        from rich.markdown import Markdown

        text = printable(markdown)
        rendered = Markdown(text) if self._console.is_terminal else text
        self._console.print(rendered, highlight=False, markup=False)

    def table(self, *forms: Table) -> None:
        """Print a table in the first of its forms that fits the width of the terminal, or in the last one."""
        unlimited = self._console.options.update(max_width=2**16)
        fits = (
            form for form in forms if Measurement.get(self._console, unlimited, form).maximum <= self._console.width
        )
        self._console.print(next(fits, forms[-1]))

    def marked(self, pieces: Sequence[tuple[str, bool]]) -> None:
        """Print pieces of a text, the marked ones in colour, or in brackets where there is none."""
        text = Text()
        for piece, is_marked in pieces:
            shown = printable(piece)
            if self._console.is_terminal:
                text.append(shown, style="black on green" if is_marked else "")
            else:
                text.append(f"[[{shown}]]" if is_marked else shown)
        self._console.print(text, highlight=False)

    def data(self, value: Any) -> None:
        """Print a value as JSON, for other programs."""
        self._console.out(json.dumps(value, indent=2), highlight=False)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Redirect other libraries' standard output to the log while the block runs."""
        # Set to itself, as the console would otherwise follow the redirected standard output.
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
# Escape sequences start with ESC or a C1 control; the others move the cursor or change the direction of text.
_CONTROLS = {*range(0x20), 0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {0x09, 0x0A}
_ESCAPED = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS}


def printable(text: str) -> str:
    r"""Escape all control characters except newline and tab, as in `\x1b`."""
    return text.translate(_ESCAPED)


def one_line(text: str) -> str:
    """Return the text as a single line of printable characters, with single spaces."""
    return printable(" ".join(text.split()))


def inline(text: str) -> str:
    """Escape text for a line of Markdown or a table cell: no link, image, HTML or further cell.

    Emphasis is not escaped: it is harmless, and names such as `a_b` stay readable.
    """
    for special, escaped in (("\\", "\\\\"), ("|", "\\|"), ("](", "]\\("), ("\n", " ")):
        text = text.replace(special, escaped)
    # A `<` before a space or digit is no HTML, and escaping it would make "< 1 s" unreadable in the source.
    return TAG.sub(r"\\<", text)


@contextmanager
def capture_native_stderr(path: Path) -> Iterator[None]:
    """Append to a file what native code writes to standard error while the block runs; Python's stderr is unchanged.

    Ray's C++ code writes notices there that users cannot act on, whatever the level of its Python loggers.
    """
    sys.stderr.flush()
    terminal, python_stderr = os.dup(2), sys.stderr
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    if _is_descriptor_2(python_stderr):
        sys.stderr = os.fdopen(
            os.dup(terminal), "w", buffering=1, encoding=python_stderr.encoding, errors=python_stderr.errors
        )
    try:
        yield
    finally:
        if sys.stderr is not python_stderr:
            sys.stderr.close()
            sys.stderr = python_stderr
        os.dup2(terminal, 2)
        os.close(terminal)


def _is_descriptor_2(stream: object) -> bool:
    try:
        return getattr(stream, "fileno", lambda: None)() == 2
    except OSError:
        return False
