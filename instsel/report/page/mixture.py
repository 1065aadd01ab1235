"""How categories help each other, and the mixtures that follow."""

from collections.abc import Mapping
from typing import Any

from instsel.mixture.dependency import LEVELS
from instsel.printable import one_line
from instsel.report.mixture import agreement_in_words, duals_in_words
from instsel.report.page import figures
from instsel.report.page.parts import Cell, Chart, Section, Table, Text, count, name_cell, number


def mixture_section(facts: Mapping[str, Any]) -> Section | None:
    """Gamma with its uncertainty, levels, shares before and after, duals in words; None without categories."""
    if not facts["interaction"]:
        return None
    parts: list[Table | Chart | Text] = []
    for estimator, found in facts["interaction"].items():
        note = (
            "What one added row of the category on the left is worth for the category above, in rows of that "
            "category, with standard errors."
        )
        names = found["categories"]
        title = f"Gamma by {estimator}"
        parts.append(
            figures.heatmap(title, names, names, found["gamma"], errors=found["error"], diverging=True, note=note)
        )
        parts += [_gamma_table(found), *_dependency(found.get("dependency"))]
    parts += [Text([agreement_in_words(name, found)]) for name, found in facts["agreement"].items()]
    if facts["categories"]:
        rows = [
            [name_cell(name), count(one["rows"]), count(one["tokens"])] for name, one in facts["categories"].items()
        ]
        parts.append(Table(["category", "rows", "tokens"], rows, title="Categories", folded=True))
    for names, told in _alike(facts["mixtures"]):
        parts += _mixture(", ".join(names), told)
    return Section("mixture", "Mixture", parts)


def _alike(mixtures: Mapping[str, Any]) -> list[tuple[list[str], Mapping[str, Any]]]:
    """Mixtures with the names of the selections that keep to them: those of a method's seeds are the same."""
    found: list[tuple[list[str], Mapping[str, Any]]] = []
    for name, told in mixtures.items():
        same = next((names for names, other in found if other == told), None)
        if same is None:
            found.append(([name], told))
        else:
            same.append(name)
    return found


def _gamma_table(found: Mapping[str, Any]) -> Table:
    rows = [
        [name_cell(added), *(number(value, 3, small=f"± {error:.3f}" if error else "")
                             for value, error in zip(values, errors, strict=True))]
        for added, values, errors in zip(found["categories"], found["gamma"], found["error"], strict=True)
    ]  # fmt: skip
    return Table(["added", *found["categories"]], rows, title="As a table", folded=True)


def _mixture(name: str, told: Mapping[str, Any]) -> list[Table | Chart | Text]:
    own = told["categories"]
    shares = {"before": [one["start"] for one in own.values()], "after": [one["weight"] for one in own.values()]}
    rows = [
        [
            name_cell(category),
            Cell(f"{one['start']:.1%}", one["start"]),
            Cell(f"{one['weight']:.1%}", one["weight"]),
            count(one["rows"]),
            number(one["importance"]),
            number(one["worth"], 3),
        ]
        for category, one in own.items()
    ]
    head = ["category", "before", "after", "rows", "importance", "worth of a row"]
    return [
        figures.bars(f"{name}: shares before and after", list(own), shares, form=".0%"),
        Text(duals_in_words(told, one_line)),
        Table(head, rows, title="As a table", folded=True),
    ]


def _dependency(found: Mapping[str, Any] | None) -> list[Text | Chart]:
    if found is None:
        return []
    by_level = {level: [name for name, own in found["levels"].items() if own == level] for level in LEVELS}
    said = [f"Levels: {'; '.join(f'{level}: ' + ', '.join(names) for level, names in by_level.items() if names)}."]
    if found["needs"]:
        said.append("; ".join(f"{pair['category']} needs {pair['needs']}" for pair in found["needs"]) + ".")
    needs = [(pair["needs"], pair["category"]) for pair in found["needs"]]
    note = "An arrow goes from a category to one that needs it."
    return [figures.graph("Which category needs which", by_level, needs, note=note), Text(said)]
