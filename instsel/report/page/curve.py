"""The part of the page that shows what methods reached at each budget."""

from typing import Any

from instsel.report.compared import Measure
from instsel.report.curve import NOTE
from instsel.report.facts import CurvePoint, StudyFacts
from instsel.report.headline import interval_text, p_text
from instsel.report.markdown import BASE
from instsel.report.page.parts import Cell, Chart, Table, count, label, number, rounded
from instsel.stats import MEAN

HEIGHT = 360


def curve_parts(facts: StudyFacts) -> list[Table | Chart]:
    """Draw and lay out a line a method; nothing where the study has a single budget."""
    if not facts.curve:
        return []
    results = facts.primary
    measure = results.measure
    lines: list[dict[str, Any]] = []
    if BASE in results.values:
        y = measure.factor * results.values[BASE][MEAN]
        lines.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": {"dash": "dash"}})
    layout = {
        "xaxis": {"title": {"text": f"{facts.unit} of an epoch"}, "type": "log"},
        "yaxis": {"title": {"text": f"{measure.name}, {measure.unit}"}},
        "showlegend": True,
        "shapes": lines,
    }
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": label(name),
            "x": rounded([point.amount for point in points]),
            "y": rounded([measure.factor * point.value for point in points]),
        }
        for name, points in facts.curve.items()
    ]
    note = "Dashed: the base model." if lines else ""
    rows = [_row(name, point, measure) for name, points in facts.curve.items() for point in points]
    table = Table(["method", facts.unit, measure.name], rows, note=NOTE)
    return [Chart(f"Curves over budgets: {measure.name}", traces, layout, HEIGHT, note), table]


def _row(name: str, point: CurvePoint, measure: Measure) -> list[Cell]:
    doubt = "" if point.adjusted_p is None else f", {p_text(point.adjusted_p)}"
    harm = f"; harms {', '.join(point.harmed)}" if point.harmed else ""
    small = f"{interval_text(point.difference, measure)}{doubt}{harm}"
    value = number(measure.factor * point.value, measure.digits, small=small)
    return [Cell(name, name), count(round(point.amount)), value]
