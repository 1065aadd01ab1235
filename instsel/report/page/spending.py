"""The part of the page that shows what methods reached for what they cost."""

from instsel.report.facts import StudyFacts
from instsel.report.page.parts import Cell, Chart, Table, count, label, number, rounded
from instsel.report.spending import NOTE

HEIGHT = 320


def spending_parts(facts: StudyFacts) -> list[Table | Chart]:
    """Show each method's cost and value as points, and as a table; nothing where no method is trained."""
    if not facts.spending:
        return []
    results = facts.primary
    measure = results.measure
    traces = [
        {
            "type": "scatter",
            "mode": "markers+text",
            "name": label(name),
            "x": rounded([each.tokens]),
            "y": rounded([measure.factor * each.value]),
            "text": [label(name)],
            "textposition": "top center",
            "marker": {"size": 11 if each.pareto else 8, "symbol": "circle" if each.pareto else "circle-open"},
        }
        for name, each in facts.spending.items()
    ]
    layout = {
        "xaxis": {"title": {"text": "tokens of a training step, selection and training"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": f"{measure.name}, {measure.unit}"}},
        "showlegend": False,
    }
    chart = Chart("What methods reached for what they cost", traces, layout, HEIGHT, "Filled: none is better for less.")
    rows = [
        [
            Cell(name, name, each.pareto),
            number(measure.factor * each.value, measure.digits),
            count(round(each.selection)),
            count(round(each.training)),
            number(None if each.flops is None else each.flops / 1e12, 1),
            number(each.selection_seconds, 1),
            number(each.training_seconds, 1),
        ]
        for name, each in facts.spending.items()
    ]
    header = ["method", measure.name, "selection", "training", "TFLOP", "seconds to select", "seconds to train"]
    return [chart, Table(header, rows, note=NOTE)]
