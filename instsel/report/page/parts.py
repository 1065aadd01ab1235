"""What a section of the page is made of: tables, charts drawn by Plotly, lines of text and rows to read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from instsel.console import one_line
from instsel.report.markdown import decimal

MOST_LETTERS = 36
LINE = 26
"""Height of a bar or of a row of a heatmap, pixels."""

CATEGORY = {"type": "category", "automargin": True}
MOST_IN_CELLS = 220


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
    """A row to read: its id, source and length, why it is shown, and its turns (role, text)."""

    name: str
    about: str
    notes: Sequence[str]
    turns: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class ReadingList:
    """Rows to read in groups, with a search box over all of them."""

    groups: Mapping[str, Sequence[Row]]
    kind: ClassVar[str] = "reading"


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    key: str
    title: str
    parts: Sequence[Table | Chart | Text | File | ReadingList] = field(default_factory=list)
    lead: str = ""


def name_cell(text: str) -> Cell:
    """Make a cell that names something."""
    return Cell(text, text)


def number(value: float | None, digits: int = 2, *, best: bool = False, small: str = "") -> Cell:
    """Make a cell with a number; with a dash where there is none."""
    if value is None:
        return Cell("–", None)
    return Cell(decimal(value, digits), value, best, small)


def count(value: int | None, small: str = "") -> Cell:
    """Make a cell with a whole number."""
    return Cell("–", None) if value is None else Cell(f"{value:,}", value, small=small)


def share(part: float, whole: float) -> Cell:
    """Make a cell with a count and its share."""
    return Cell(f"{part / whole:.1%}" if whole else "–", part / whole if whole else None, small=f"{part:,.0f}")


def label(text: str, most: int = MOST_LETTERS) -> str:
    """Write a name as a chart may show it: one short line in which Plotly finds no markup."""
    shown = one_line(text)
    if len(shown) > most:
        shown = shown[: most - 1] + "…"
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def labels(names: Sequence[str]) -> list[str]:
    """Write names as a chart's axis may show them; equal ones are numbered, so that none is drawn on another."""
    shown: list[str] = []
    for name in names:
        text, copy = label(name), 2
        unique = text
        while unique in shown:
            unique, copy = f"{text} ({copy})", copy + 1
        shown.append(unique)
    return shown


def rounded(values: Any, digits: int = 4) -> Any:
    """Round numbers of any nesting to few digits: a chart shows no more, and the page stays small."""
    if isinstance(values, list | tuple):
        return [rounded(value, digits) for value in values]
    return float(f"{values:.{digits}g}") if isinstance(values, float) else values


@dataclass(frozen=True)
class Matrix:
    """Named rows and columns, their values, and their standard errors where there are any."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    errors: Sequence[Sequence[float | None]] | None = None


def heatmap(
    title: str,
    matrix: Matrix,
    *,
    diverging: bool = False,
    form: str = ".2f",
    note: str = "",
) -> Chart:
    """Draw a matrix as colours, with its numbers if few enough; diverging ones have zero in the middle."""
    rows, columns, values, errors = matrix.rows, matrix.columns, matrix.values, matrix.errors
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": labels(columns),
        "y": labels(rows),
        "z": rounded(values),
        "hovertemplate": f"%{{y}}<br>%{{x}}<br>%{{z:{form}}}<extra></extra>",
        "colorscale": "diverging" if diverging else "sequential",
        "colorbar": {"thickness": 10, "outlinewidth": 0, "tickformat": form},
        "xgap": 1,
        "ygap": 1,
    }
    if diverging:
        trace["zmid"] = 0
    if errors is not None:
        trace["text"] = [
            [_with_error(value, error, form) for value, error in zip(row, row_errors, strict=True)]
            for row, row_errors in zip(values, errors, strict=True)
        ]
        trace |= {"texttemplate": "%{text}", "hovertemplate": "%{y}<br>%{x}<br>%{text}<extra></extra>"}
    elif len(rows) * len(columns) <= MOST_IN_CELLS:
        trace["texttemplate"] = f"%{{z:{form}}}"
    layout = {"xaxis": {**CATEGORY, "side": "top"}, "yaxis": {**CATEGORY, "autorange": "reversed"}}
    return Chart(title, [trace], layout, 120 + LINE * max(4, len(rows)), note)


def bars(
    title: str,
    names: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    *,
    form: str = ",",
    axis: str = "",
    note: str = "",
) -> Chart:
    """Draw horizontal bars, a group a name, the first name on top."""
    layout = {"barmode": "group", "xaxis": {"tickformat": form, "title": {"text": axis}, "rangemode": "tozero"}}
    thickness = LINE if len(series) == 1 else 9 * len(series) + 12
    return _bar_chart(title, names, series, layout, thickness, note)


def stacked_bars(
    title: str, names: Sequence[str], shares: Mapping[str, Sequence[float | None]], note: str = ""
) -> Chart:
    """Draw horizontal bars of shares, a stack a name, the first name on top."""
    layout = {"barmode": "stack", "xaxis": {"tickformat": ".0%", "title": {"text": ""}, "range": [0, 1]}}
    return _bar_chart(title, names, shares, layout, LINE, note)


def _bar_chart(
    title: str,
    names: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    layout: Mapping[str, Any],
    thickness: int,
    note: str,
) -> Chart:
    shown, form = labels(names), layout["xaxis"]["tickformat"]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": label(name),
            "y": shown,
            "x": rounded(list(values)),
            "hovertemplate": f"%{{y}}<br>{_plain(label(name))}: %{{x:{form}}}<extra></extra>",
        }
        for name, values in series.items()
    ]
    layout = {**layout, "yaxis": {**CATEGORY, "autorange": "reversed"}, "showlegend": len(series) > 1}
    return Chart(title, traces, layout, 130 + thickness * max(2, len(names)), note)


def lines(
    title: str,
    series: Mapping[str, tuple[Sequence[Any], Sequence[float | None]]],
    layout: Mapping[str, Any],
    *,
    shown: Sequence[str] | None = None,
    stacked: bool = False,
    note: str = "",
) -> Chart:
    """Draw lines over a common axis; those not `shown` wait in the legend."""
    traces = []
    for name, (across, values) in series.items():
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "lines",
            "name": label(name),
            "x": rounded(list(across)),
            "y": rounded(list(values)),
            "line": {"width": 1.5},
        }
        if stacked:
            trace |= {"stackgroup": "all", "line": {"width": 0.5}}
        if shown is not None and name not in shown:
            trace["visible"] = "legendonly"
        traces.append(trace)
    return Chart(title, traces, {"showlegend": True, **layout}, 380, note)


def graph(
    title: str, columns: Mapping[str, Sequence[str]], arrows: Sequence[tuple[str, str]], *, note: str = ""
) -> Chart:
    """Draw names in titled columns, and arrows from the first name of each pair to the second."""
    positions = {
        name: (column, row - (len(names) - 1) / 2)
        for column, names in enumerate(columns.values())
        for row, name in enumerate(names)
    }
    trace = {
        "type": "scatter",
        "mode": "markers+text",
        "x": [x for x, _ in positions.values()],
        "y": [y for _, y in positions.values()],
        "text": [label(name) for name in positions],
        "textposition": "top center",
        "hoverinfo": "skip",
        "marker": {"size": 9},
    }
    style = {"xref": "x", "yref": "y", "axref": "x", "ayref": "y", "text": "", "arrowhead": 2, "arrowcolor": "#888"}
    layout = {
        "annotations": [
            {"x": x, "y": y, "ax": start_x, "ay": start_y, "standoff": 8, **style}
            for (start_x, start_y), (x, y) in ((positions[start], positions[end]) for start, end in arrows)
        ],
        "xaxis": {
            "tickvals": list(range(len(columns))),
            "ticktext": labels(list(columns)),
            "range": [-0.5, len(columns) - 0.5],
            "side": "top",
            "showgrid": False,
            "zeroline": False,
        },
        "yaxis": {"visible": False, "autorange": "reversed"},
    }
    return Chart(title, [trace], layout, 120 + 2 * LINE * max(map(len, columns.values())), note)


def _plain(text: str) -> str:
    """Write a name for a template of Plotly, which looks for %{...} in it."""
    return text.replace("%", "&#37;").replace("{", "&#123;")


def _with_error(value: float | None, error: float | None, form: str) -> str:
    if value is None:
        return "unknown"
    return f"{value:{form}}" if not error else f"{value:{form}} ± {error:{form}}"
