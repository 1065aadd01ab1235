"""What a section of the page is made of: tables, charts, lines of text and rows to read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from instsel.console import one_line
from instsel.report.markdown import decimal

MOST_LETTERS = 36


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is shown, by what it sorts, and whether it is the best of its column."""

    text: str
    sort: float | str | None = None
    best: bool = False
    small: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose columns sort; the first column is a name, the others are numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    note: str = ""
    folded: bool = False
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Chart:
    """A chart: Plotly's traces and layout, and its height in pixels."""

    title: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    height: int = 360
    note: str = ""
    kind: ClassVar[str] = "chart"


@dataclass(frozen=True)
class Text:
    """Paragraphs."""

    lines: Sequence[str]
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class File:
    """A file's text, folded."""

    title: str
    text: str
    kind: ClassVar[str] = "file"


@dataclass(frozen=True)
class Row:
    """A row to read: who it is, its numbers, why it is here, and its turns (role, text)."""

    name: str
    about: str
    facts: Sequence[str]
    turns: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Reading:
    """Rows to read in groups, with a search box over all of them."""

    groups: Mapping[str, Sequence[Row]]
    kind: ClassVar[str] = "reading"


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    key: str
    title: str
    parts: Sequence[Table | Chart | Text | File | Reading] = field(default_factory=list)
    lead: str = ""


def name_cell(text: str) -> Cell:
    """A cell that names something."""
    return Cell(text, text)


def number(value: float | None, digits: int = 2, *, best: bool = False, small: str = "") -> Cell:
    """A cell with a number; a dash where there is none."""
    if value is None:
        return Cell("–", None)
    return Cell(decimal(value, digits), value, best, small)


def count(value: int | None, small: str = "") -> Cell:
    """A cell with a whole number."""
    return Cell("–", None) if value is None else Cell(f"{value:,}", value, small=small)


def share(part: float, whole: float) -> Cell:
    """A cell with a count and its share."""
    return Cell(f"{part / whole:.1%}" if whole else "–", part / whole if whole else None, small=f"{part:,.0f}")


def label(text: str, most: int = MOST_LETTERS) -> str:
    """A name as a chart may show it: one short line in which Plotly finds no markup."""
    shown = one_line(text)
    if len(shown) > most:
        shown = shown[: most - 1] + "…"
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def labels(names: Sequence[str]) -> list[str]:
    """Names as a chart's axis may show them; those that look alike are numbered, so that none is drawn on another."""
    shown: list[str] = []
    for name in names:
        base, found, again = label(name), label(name), 2
        while found in shown:
            found, again = f"{base} ({again})", again + 1
        shown.append(found)
    return shown


def rounded(values: Any, digits: int = 4) -> Any:
    """Numbers of any nesting with few digits: what a chart shows needs no more, and the page stays small."""
    if isinstance(values, list | tuple):
        return [rounded(one, digits) for one in values]
    return float(f"{values:.{digits}g}") if isinstance(values, float) else values
