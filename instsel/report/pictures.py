"""Pictures of a report, as SVG: the same bytes for the same numbers."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LEVELS = ("preliminary", "intermediate", "subsequent")
STYLE: Any = {
    "svg.hashsalt": "instsel",
    "svg.fonttype": "none",
    "font.size": 9,
    # Names of categories are somebody else's, and no formulas.
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def heatmap(names: Sequence[str], gamma: Sequence[Sequence[float | None]], error: Sequence[Sequence[Any]]) -> bytes:
    """Gamma as coloured squares, each with its value and standard error; unknown entries are grey.

    Args:
        names: of the K categories.
        gamma: (K, K), gamma[added, evaluated]; None where unknown.
        error: (K, K), standard errors; None where unknown.
    """
    values, errors = (np.array(rows, dtype=np.float64) for rows in (gamma, error))
    size = len(names)
    with mpl.rc_context(STYLE):
        figure, axes = _figure(1.8 + 0.8 * size, 1.2 + 0.62 * size)
        shades = mpl.colormaps["RdBu"].with_extremes(bad="0.85")
        image = axes.imshow(np.ma.masked_invalid(values), cmap=shades, vmin=-1.2, vmax=1.2, aspect="auto")
        for added in range(size):
            for evaluated in range(size):
                text = _cell(values[added, evaluated], errors[added, evaluated], added == evaluated)
                dark = abs(values[added, evaluated]) > 0.8
                colour = "white" if dark else "black"
                axes.text(evaluated, added, text, ha="center", va="center", fontsize=7, color=colour)
        axes.set_xticks(range(size), names, rotation=40, ha="right")
        axes.set_yticks(range(size), names)
        axes.set_xlabel("evaluated")
        axes.set_ylabel("added")
        figure.colorbar(image, ax=axes, label="worth of an added row, in rows of the evaluated category")
        return _svg(figure)


def shares(names: Sequence[str], mixtures: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> bytes:
    """Shares of categories before and after the programme, as bars, a panel a selection.

    Args:
        names: of the K categories.
        mixtures: selection -> (K,) shares that its mixture started from, and (K,) those that it has.
    """
    places = np.arange(len(names))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.5 + 0.7 * len(names), 0.8 + 1.7 * len(mixtures)), layout="constrained")
        panels = figure.subplots(len(mixtures), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (selection, (before, after)) in zip(panels, mixtures.items(), strict=True):
            axes.bar(places - 0.2, before, 0.4, label="before", color="0.7")
            axes.bar(places + 0.2, after, 0.4, label="after")
            axes.set_title(selection, loc="left", fontsize=9)
            axes.set_ylabel("share of the rows")
        panels[-1].set_xticks(places, names, rotation=40, ha="right")
        panels[0].legend(frameon=False)
        return _svg(figure)


def dependency_graph(levels: Mapping[str, str], needs: Sequence[Mapping[str, str]]) -> bytes:
    """Categories in three columns by level, an arrow from each to those that need it.

    Args:
        levels: category -> preliminary, intermediate or subsequent.
        needs: pairs of "category" and what it "needs".
    """
    columns = {level: [name for name in levels if levels[name] == level] for level in LEVELS}
    tallest = max(len(names) for names in columns.values())
    places = {
        name: (column, (tallest - len(names)) / 2 + row)
        for column, names in enumerate(columns.values())
        for row, name in enumerate(names)
    }
    with mpl.rc_context(STYLE):
        figure, axes = _figure(8, 1.0 + 0.8 * tallest)
        for pair in needs:
            beside = levels[pair["needs"]] == levels[pair["category"]]
            arrow = {
                "arrowstyle": "-|>",
                "color": "0.4",
                "shrinkA": 12 if beside else 32,
                "shrinkB": 12 if beside else 32,
                "connectionstyle": "arc3,rad=0.7" if beside else "arc3,rad=0.05",
            }
            axes.annotate("", places[pair["category"]], places[pair["needs"]], arrowprops=arrow)
        for name, (column, row) in places.items():
            box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "0.6"}
            axes.text(column, row, name, ha="center", va="center", bbox=box)
        for column, level in enumerate(LEVELS):
            axes.text(column, tallest - 0.3, level, ha="center", weight="bold")
        axes.set_xlim(-0.5, 2.5)
        axes.set_ylim(-0.7, tallest)
        axes.axis("off")
        return _svg(figure)


def pareto(points: Sequence[Mapping[str, Any]]) -> bytes:
    """Loss against tokens trained of every trial, the Pareto set joined by a line.

    Args:
        points: "name", "tokens", "objective", and "best", whether no trial is better in both.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _figure(6, 3.8)
        others = [point for point in points if not point["best"]]
        axes.scatter([p["tokens"] for p in others], [p["objective"] for p in others], color="0.6", label="trials")
        best = sorted((point for point in points if point["best"]), key=lambda point: point["tokens"])
        axes.plot([p["tokens"] for p in best], [p["objective"] for p in best], "o-", label="Pareto set")
        for point in best:
            spot = (point["tokens"], point["objective"])
            axes.annotate(point["name"], spot, xytext=(4, 4), textcoords="offset points", fontsize=7)
        axes.set_xlabel("tokens trained on")
        axes.set_ylabel("objective")
        axes.legend(frameon=False)
        return _svg(figure)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _cell(value: float, error: float, own: bool) -> str:
    if np.isnan(value):
        return "unknown"
    if own or np.isnan(error):
        return f"{value:.2f}"
    return f"{value:.2f}\n±{error:.2f}"


def _svg(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
