"""What was chosen: sources, tasks, categories and lengths against the pool, and what selections share."""

from collections.abc import Mapping
from typing import Any

from instsel.report.page import figures
from instsel.report.page.parts import Chart, Section, Table, Text, count, name_cell, number, share

POOL = "pool"
TITLES = {"source": "By source", "task": "By task", "category": "By category", "length": "By length, in tokens"}


def choice_section(facts: Mapping[str, Any]) -> Section:
    """Compositions and overlap."""
    if not facts["makeup"]:
        return Section("choice", "What was chosen", [Text(["The pool is not prepared yet."])])
    parts: list[Table | Chart] = [_sizes(facts)]
    for facet, found in facts["makeup"].items():
        columns = {POOL: found["pool"], **found["selections"]}
        totals = {name: sum(counts) for name, counts in columns.items()}
        series = {
            name: [counts[place] / totals[column] if totals[column] else 0 for column, counts in columns.items()]
            for place, name in enumerate(found["names"])
        }
        parts.append(figures.bars(TITLES[facet], list(columns), series, stacked=True, form=".0%"))
        rows = [
            [name_cell(name), *(share(counts[place], totals[column]) for column, counts in columns.items())]
            for place, name in enumerate(found["names"])
        ]
        parts.append(Table([facet, *columns], rows, title="As a table", folded=True))
    shared = facts["overlap"]
    if len(shared["names"]) > 1:
        note = "Of the rows of the selection on the left, the share that the one above has too."
        parts.append(
            figures.heatmap("Overlap", shared["names"], shared["names"], shared["shares"], form=".0%", note=note)
        )
    return Section("choice", "What was chosen", parts)


def _sizes(facts: Mapping[str, Any]) -> Table:
    rows = [
        [
            name_cell(name),
            count(one["rows"]),
            count(one["tokens"]),
            number(one["mean"], 1),
            *(number(value, 0) for value in one["quartiles"]),
        ]
        for name, one in facts["lengths"].items()
    ]
    head = ["selection", "rows", "tokens", "mean length", "quarter below", "half below", "three quarters below"]
    return Table(head, rows, note="Length of a row in tokens, its prompt counted.")
