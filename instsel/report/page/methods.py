"""How methods divided their budget, and in which order a curriculum trained."""

from collections.abc import Mapping
from typing import Any

from instsel.report.facts.gather import DIVIDES
from instsel.report.page import figures
from instsel.report.page.parts import Cell, Chart, Section, Table, count, number

NAMES = {"g2is": "principal components (G2IS)", "smart": "tasks (SMART)"}
WEIGHTS = {"g2is": "share of the variance", "smart": "gain of the task"}
SCORES = {
    "g2is": "A score is the cosine with the row before; of first and filled in rows, with the component.",
    "smart": "A score is the pick's gain within its task.",
}
ORIGINS = {
    "g2is": "A component has the share of the budget that it has of the variance which all of them explain.",
    "smart": "The gain of a task, in the order of the greedy walk over tasks, gave it its share.",
}
MOST_RUNS = 6


def budgets_section(facts: Mapping[str, Any]) -> Section | None:
    """Components of G2IS and tasks of SMART with their budgets; None where no selection divides its budget."""
    if not facts["parts"]:
        return None
    parts: list[Table | Chart] = []
    for name, found in facts["parts"].items():
        own, method = found["parts"], found["method"]
        shown = [one["name"].removeprefix(f"{DIVIDES[method]} ") for one in own]
        title = f"{name}: budget by {NAMES[method]}"
        parts.append(figures.bars(title, shown, {"rows": [one["rows"] for one in own]}, axis="rows"))
        given = any(one["weight"] is not None for one in own)
        rows = [
            [
                Cell(one["name"], place),
                *([number(one["weight"], 3)] if given else []),
                count(one["rows"]),
                count(one["tokens"]),
                number(one["gain"], 3),
                number(one["first"], 3),
                number(one["last"], 3),
            ]
            for place, one in enumerate(own)
        ]
        head = [
            "part",
            *([WEIGHTS[method]] if given else []),
            "rows",
            "tokens",
            "sum of scores",
            "first score",
            "last score",
        ]
        note = f"In the order in which they were called. {SCORES[method]}"
        note += f" {ORIGINS[method]}" if given else ""
        parts.append(Table(head, rows, title="As a table", note=note, folded=True))
    return Section("budgets", "How budgets were divided", parts)


def curriculum_section(facts: Mapping[str, Any]) -> Section | None:
    """The share of each level over the steps; None where no training has an order of its own."""
    if not facts["orders"]:
        return None
    runs = _one_a_method(facts)
    parts = [
        figures.lines(
            run,
            {level: (found["rows"], shares) for level, shares in found["shares"].items()},
            {
                "xaxis": {"title": {"text": "rows trained on"}},
                "yaxis": {"tickformat": ".0%", "range": [0, 1]},
            },
            stacked=True,
        )
        for run, found in runs.items()
    ]
    return Section("curriculum", "Order of training", parts, "The share of each level along the training.")


def _one_a_method(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The first seed of each method, as the others differ by the shuffle alone."""
    first = [names[0] for names in facts["seeds"].values()]
    orders = facts["orders"]
    kept = [name for name in orders if name in first] or list(orders)
    return {name: orders[name] for name in kept[:MOST_RUNS]}
