"""The kinds of charts that the page draws, as Plotly's traces; colours and fonts are the script's, by theme."""

from collections.abc import Mapping, Sequence
from typing import Any

from instsel.report.page.parts import Chart, label, labels, rounded

LINE = 26
CATEGORY = {"type": "category", "automargin": True}
MOST_IN_CELLS = 220


def heatmap(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    diverging: bool = False,
    form: str = ".2f",
    errors: Sequence[Sequence[float | None]] | None = None,
    note: str = "",
) -> Chart:
    """A matrix as colours, with its numbers where there is room; diverging ones have zero in the middle."""
    found = rounded(values)
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": labels(columns),
        "y": labels(rows),
        "z": found,
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
            [_with_error(value, error, form) for value, error in zip(own, other, strict=True)]
            for own, other in zip(values, errors, strict=True)
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
    stacked: bool = False,
    form: str = ",",
    axis: str = "",
    note: str = "",
) -> Chart:
    """Lying bars, one group or one stack a name; the first name on top. Those of a stack are shares."""
    shown = labels(names)
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
    layout = {
        "barmode": "stack" if stacked else "group",
        "xaxis": {
            "tickformat": form,
            "title": {"text": axis},
            **({"range": [0, 1]} if stacked else {"rangemode": "tozero"}),
        },
        "yaxis": {**CATEGORY, "autorange": "reversed"},
        "showlegend": len(series) > 1,
    }
    thick = LINE if stacked or len(series) == 1 else 9 * len(series) + 12
    return Chart(title, traces, layout, 130 + thick * max(2, len(names)), note)


def lines(
    title: str,
    series: Mapping[str, tuple[Sequence[Any], Sequence[float | None]]],
    layout: Mapping[str, Any],
    *,
    shown: Sequence[str] | None = None,
    stacked: bool = False,
    note: str = "",
) -> Chart:
    """Lines over a common axis; those not `shown` wait in the legend."""
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
    """Names in titled columns, with arrows between them, each from the first name of a pair to the second."""
    positions = {
        name: (column, row - (len(names) - 1) / 2)
        for column, names in enumerate(columns.values())
        for row, name in enumerate(names)
    }
    across, down = ([position[axis] for position in positions.values()] for axis in (0, 1))
    trace = {
        "type": "scatter",
        "mode": "markers+text",
        "x": across,
        "y": down,
        "text": [label(name) for name in positions],
        "textposition": "top center",
        "hoverinfo": "skip",
        "marker": {"size": 9},
    }
    in_data = {"xref": "x", "yref": "y", "axref": "x", "ayref": "y"}
    layout = {
        "annotations": [
            {"x": x, "y": y, "ax": start_x, "ay": start_y, "text": "", "arrowhead": 2, "standoff": 8, **in_data}
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
    return Chart(title, [trace], layout, 120 + 2 * LINE * max(len(names) for names in columns.values()), note)


def _plain(text: str) -> str:
    """A name within a template of Plotly, which looks for %{...} in it."""
    return text.replace("%", "&#37;").replace("{", "&#123;")


def _with_error(value: float | None, error: float | None, form: str) -> str:
    if value is None:
        return "unknown"
    return f"{value:{form}}" if not error else f"{value:{form}} ± {error:{form}}"
