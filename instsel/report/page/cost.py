"""What the study took, what made it, and its study file."""

from collections.abc import Mapping
from typing import Any

from instsel.report.page import figures
from instsel.report.page.parts import Cell, Chart, File, Section, Table, Text, count, number

GIB = 2**30


def cost_section(facts: Mapping[str, Any]) -> Section:
    """Time, tokens a second, memory and rows done again of every stage; versions; the study file."""
    cost = facts["cost"]
    parts: list[Table | Chart | Text | File] = []
    if cost:
        parts += [_times(cost), _table(facts)]
    parts.append(Text([", ".join(f"{name} {version}" for name, version in facts["versions"].items())]))
    parts.append(File("The study file, with every default", facts["study_file"]))
    return Section("cost", "Cost and origin", parts)


def _times(cost: Mapping[str, Mapping[str, Any]]) -> Chart:
    groups: dict[str, float] = {}
    for name, one in cost.items():
        group = name.partition("/")[0]
        groups[group] = groups.get(group, 0.0) + one["seconds"]
    total = sum(groups.values())
    said = f"{total / 3600:.1f} hours" if total >= 7200 else f"{total / 60:.1f} minutes"
    return figures.bars("Time by stage", list(groups), {"seconds": list(groups.values())}, axis=f"seconds; all {said}")


def _table(facts: Mapping[str, Any]) -> Table:
    rows = []
    for place, (name, one) in enumerate(facts["cost"].items()):
        speed = one["tokens"] / one["seconds"] if one["tokens"] and one["seconds"] else None
        peak = one["peak_memory_bytes"]
        rows.append(
            [
                Cell(name, place),
                number(one["seconds"], 1),
                count(one["tokens"] or None),
                count(round(speed) if speed else None),
                Cell(f"{peak / GIB:.2f} GiB", peak) if peak else Cell("–"),
                count(one.get("rows_reprocessed", 0)),
                Cell(facts["fingerprints"][name], facts["fingerprints"][name]),
            ]
        )
    head = ["stage", "seconds", "tokens", "tokens/s", "peak memory", "rows again", "fingerprint"]
    return Table(head, rows, title="Every stage", folded=len(rows) > 12)
