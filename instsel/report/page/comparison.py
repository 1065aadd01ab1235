"""The parts of the page that compare methods: accuracy, guards, held-out loss, and differences to the baseline."""

from collections.abc import Sequence
from typing import Any

from instsel.report.compared import AccuracyFacts, Compared
from instsel.report.comparison import ACCURACY_NOTE, PROBABILITY_NOTE
from instsel.report.headline import (
    correlation_sentence,
    guard_sentences,
    headline,
    interval_note,
    interval_text,
    p_text,
    significance_note,
    value_text,
)
from instsel.report.markdown import BASE, decimal
from instsel.report.page.parts import CATEGORY, LINE, Cell, Chart, Table, Text, label, labels, number, rounded
from instsel.stats import MEAN

FARTHEST = 2.5
"""The base model's line is drawn if it is at most so many times as far as the end of the widest interval."""

_DASHED = {"dash": "dash", "width": 1.5, "color": "#888"}


def accuracy_parts(accuracy: AccuracyFacts) -> list[Table | Chart | Text]:
    """Show accuracies, guards, the probability of the right option, and whether the loss says the same."""
    parts = compared_parts(accuracy, ACCURACY_NOTE) if accuracy.scores else []
    if accuracy.guards:
        parts += [Text(guard_sentences(accuracy)), guards_table(accuracy)]
    if accuracy.probability is not None:
        parts.append(results_table(accuracy.probability, PROBABILITY_NOTE))
    if sentence := correlation_sentence(accuracy):
        parts.append(Text([sentence]))
    return parts


def compared_parts(results: Compared, note: str) -> list[Table | Chart | Text]:
    """Show what methods reach by a measure, and their differences; the note says what the values are."""
    parts: list[Table | Chart | Text] = [Text([headline(results)]), results_table(results, note)]
    return [*parts, _differences(results)] if results.differences else parts


def results_table(results: Compared, what: str) -> Table:
    """Lay out methods by targets: value, and the difference to the baseline with its interval and adjusted p-value.

    Args:
        results: to lay out.
        what: sentences that say what the values are.
    """
    targets, measure, best = [MEAN, *results.counts], results.measure, results.best_values
    rows = []
    for name in results.by_mean:
        cells = [Cell(name, name, name in results.not_told_apart, _role(name, results))]
        for target in targets:
            value, small = results.values[name][target], _difference_text(name, target, results)
            shown = measure.factor * value
            cells.append(number(shown, measure.digits, best=value == best[target], small=small))
        rows.append(cells)
    note = (
        f"{what} The best value of a column is marked, and every method that is not told apart from the best. Below a "
        f"value the {interval_note(results)} {significance_note(results)}"
    )
    return Table(["method", *(results.label(target) for target in targets)], rows, note=note)


def guards_table(accuracy: AccuracyFacts) -> Table:
    """Lay out methods by guards: score, and the difference to the base model with its interval and verdict."""
    measure, guards = accuracy.measure, list(accuracy.base_guards)
    rows = [[Cell(BASE, BASE), *(number(measure.factor * accuracy.base_guards[guard], 1) for guard in guards)]]
    for name, by_guard in accuracy.guards.items():
        cells = [Cell(name, name)]
        for guard in guards:
            facts = by_guard[guard]
            small = f"{interval_text(facts.difference, measure)}, {facts.judgement}"
            cells.append(number(measure.factor * facts.score, measure.digits, small=small))
        rows.append(cells)
    margins = ", ".join(f"{guard} {value_text(margin, measure)}" for guard, margin in accuracy.margins.items())
    note = (
        "Guards are scored and never selected for. Below a score the difference to the base model with its interval: "
        f"non-inferior where all of it is above minus the margin ({margins} points), worse where all of it is below."
    )
    return Table(["guards", *guards], rows, note=note)


def _difference_text(name: str, target: str, results: Compared) -> str:
    text = interval_text(results.differences.get(name, {}).get(target), results.measure)
    p_value = results.adjusted_p.get(name, {}).get(target)
    return text if p_value is None else f"{text}, {p_text(p_value)}"


def _role(name: str, results: Compared) -> str:
    if name == BASE:
        return "untrained"
    if name in results.whole_pool:
        return "the whole pool"
    runs = len(results.runs[name])
    roles = ["baseline" if name == results.baseline else "", f"{runs} runs" if runs > 1 else ""]
    return "; ".join(role for role in roles if role)


def _differences(results: Compared) -> Chart:
    """Draw differences to the baseline: the mean, and each target hidden in the legend."""
    names = [name for name in results.by_mean if name in results.differences and name != BASE]
    measure, traces = results.measure, []
    for target in [MEAN, *results.counts]:
        intervals = [results.differences[name][target] for name in names]
        error = {
            "type": "data",
            "symmetric": False,
            "array": rounded([measure.factor * (interval.high - interval.difference) for interval in intervals]),
            "arrayminus": rounded([measure.factor * (interval.difference - interval.low) for interval in intervals]),
            "thickness": 1.5,
            "width": 3,
        }
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label(target),
                "y": labels(names),
                "x": rounded([measure.factor * interval.difference for interval in intervals]),
                "error_x": error,
                "marker": {"size": 8},
                "visible": True if target == MEAN else "legendonly",
            }
        )
    shapes, note = _reference_lines(results, names)
    layout = {
        "xaxis": {"title": {"text": f"difference to {label(results.baseline)}, {measure.unit}"}, "zeroline": True},
        "yaxis": {**CATEGORY, "autorange": "reversed"},
        "showlegend": True,
        "shapes": shapes,
    }
    side = "Right" if measure.higher_is_better else "Left"
    note = f"{side} of zero is better. Targets are drawn when their name is clicked. {note}".strip()
    return Chart(f"Difference to the baseline: {measure.name}", traces, layout, 150 + LINE * max(3, len(names)), note)


def _reference_lines(results: Compared, names: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """Draw the base model and the whole pool as dashed lines if they are near enough; say where they are."""
    differences, factor = results.differences, results.measure.factor
    means = [differences[name][MEAN] for name in names]
    widest = max((abs(end) for interval in means for end in (interval.low, interval.high)), default=0)
    shapes, sentences = [], []
    for name in (BASE, *results.whole_pool):
        if name not in differences:
            continue
        x = factor * differences[name][MEAN].difference
        subject = "The base model" if name == BASE else f"{name}, the whole pool,"
        if abs(x) <= FARTHEST * factor * widest:
            shapes.append({"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": _DASHED})
            sentences.append(f"{subject} is the dashed line at {decimal(x)}.")
        else:
            sentences.append(f"{subject} is at {decimal(x)}, off the chart.")
    return shapes, " ".join(sentences)
