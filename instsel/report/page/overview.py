"""The verdict: targets by methods, differences to random with intervals, the best marked."""

from collections.abc import Mapping, Sequence
from typing import Any

from instsel.report.markdown import BASE, decimal, percent
from instsel.report.page.figures import CATEGORY, LINE
from instsel.report.page.parts import Cell, Chart, Section, Table, Text, labels, number, rounded
from instsel.stats import MEAN

NOTHING = "Nothing is evaluated yet, or no target has held-out rows."
FAR = 2.5
"""The base model's line is drawn where it is not further off than so many times the widest interval's end."""


def verdict_section(facts: Mapping[str, Any]) -> Section:
    """The first section of the page."""
    if not facts["losses"]:
        return Section("verdict", "Verdict", [Text([NOTHING])])
    parts: list[Table | Chart | Text] = [Text([headline(facts)]), verdict_table(facts)]
    if facts["differences"]:
        parts.append(_differences(facts))
    return Section("verdict", "Verdict", parts)


def headline(facts: Mapping[str, Any]) -> str:
    """Which method is best and by how much, in one sentence."""
    best, baseline = facts["best"], facts["baseline"]
    if best is None:
        return "Only the base model is evaluated so far."
    loss = facts["losses"][best][MEAN]
    said = f"Best: {best}, with a mean held-out loss of {decimal(loss, 3)}"
    if best == baseline and len(facts["losses"]) - (BASE in facts["losses"]) == 1:
        return f"{said}, the only method that is evaluated so far."
    if best == baseline:
        return f"{said}: no method beat {baseline}."
    found = facts["differences"].get(best)
    if not found:
        return f"{said}."
    mean = found[MEAN]
    clear = [name for name, one in found.items() if name != MEAN and one["high"] < 0]
    worse = [name for name, one in found.items() if name != MEAN and one["low"] > 0]
    said += (
        f", {decimal(abs(mean['difference']), 3)} {'below' if mean['difference'] < 0 else 'above'} {baseline} "
        f"[{decimal(mean['low'], 3)}, {decimal(mean['high'], 3)}]. Clearly better on {len(clear)} of "
        f"{len(found) - 1} targets"
    )
    return f"{said}, clearly worse on {', '.join(worse)}." if worse else f"{said}, clearly worse on none."


def by_mean(facts: Mapping[str, Any]) -> list[str]:
    """Methods, and the base model, the lowest mean loss first."""
    losses = facts["losses"]
    return sorted(losses, key=lambda name: losses[name][MEAN])


def verdict_table(facts: Mapping[str, Any]) -> Table:
    """Methods by targets: loss, and the difference to the baseline with its interval."""
    losses, differences = facts["losses"], facts["differences"]
    targets = list(facts["heldout_rows"])
    lowest = {target: min(by_target[target] for by_target in losses.values()) for target in [MEAN, *targets]}
    rows = []
    for name in by_mean(facts):
        cells = [Cell(name, name, name == facts["best"], _role(name, facts))]
        for target in [MEAN, *targets]:
            loss, found = losses[name][target], differences.get(name, {}).get(target)
            cells.append(number(loss, 3, best=loss == lowest[target], small=interval(found)))
        rows.append(cells)
    held = ", ".join(f"{name} {rows}" for name, rows in facts["heldout_rows"].items())
    note = (
        f"Mean cross-entropy of answer tokens, nats; lower is better. Below it the difference to {facts['baseline']} "
        f"with its {percent(facts['confidence'])} paired bootstrap interval over held-out rows ({held})."
    )
    return Table(["method", MEAN, *targets], rows, note=note)


def interval(found: Mapping[str, float] | None) -> str:
    """A difference with its interval, as text."""
    if not found:
        return ""
    ends = ", ".join(decimal(found[end], 2) for end in ("low", "high"))
    return f"{decimal(found['difference'], 2)} [{ends}]"


def _role(name: str, facts: Mapping[str, Any]) -> str:
    if name == BASE:
        return "untrained"
    if name in facts["full"]:
        return "the whole pool"
    runs = len(facts["seeds"][name])
    said = f"{runs} runs" if runs > 1 else ""
    return "; ".join(part for part in ("baseline" if name == facts["baseline"] else "", said) if part)


def _differences(facts: Mapping[str, Any]) -> Chart:
    """Differences to the baseline, the mean shown and each target waiting in the legend."""
    differences = facts["differences"]
    names = [name for name in by_mean(facts) if name in differences and name != BASE]
    shown = labels(names)
    traces = []
    for target in [MEAN, *facts["heldout_rows"]]:
        found = [differences[name][target] for name in names]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": labels([target])[0],
                "y": shown,
                "x": rounded([one["difference"] for one in found]),
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": rounded([one["high"] - one["difference"] for one in found]),
                    "arrayminus": rounded([one["difference"] - one["low"] for one in found]),
                    "thickness": 1.5,
                    "width": 3,
                },
                "marker": {"size": 8},
                "visible": True if target == MEAN else "legendonly",
            }
        )
    lines, note = _reference_lines(facts, names)
    layout = {
        "xaxis": {"title": {"text": f"difference to {labels([facts['baseline']])[0]}, nats"}, "zeroline": True},
        "yaxis": {**CATEGORY, "autorange": "reversed"},
        "showlegend": True,
        "shapes": lines,
    }
    said = f"Left of zero is better. Targets are drawn when their name is clicked. {note}".strip()
    return Chart("Difference to the baseline", traces, layout, 150 + LINE * max(3, len(names)), said)


def _reference_lines(facts: Mapping[str, Any], names: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """The base model and the full data as dashed lines where they are near enough, else in words."""
    differences = facts["differences"]
    ends = [abs(differences[name][MEAN][end]) for name in names for end in ("low", "high")]
    lines, said = [], []
    for name in (BASE, *facts["full"]):
        if name not in differences:
            continue
        value = differences[name][MEAN]["difference"]
        what = "The base model" if name == BASE else f"{name}, the whole pool,"
        if abs(value) <= FAR * max(ends, default=0):
            lines.append({"type": "line", "x0": value, "x1": value, "yref": "paper", "y0": 0, "y1": 1, "line": _DASHED})
            said.append(f"{what} is the dashed line at {decimal(value)}.")
        else:
            said.append(f"{what} is at {decimal(value)}, off the chart.")
    return lines, " ".join(said)


_DASHED = {"dash": "dash", "width": 1.5, "color": "#888"}
