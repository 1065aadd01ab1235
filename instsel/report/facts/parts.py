"""How a selection divided its budget: G2IS among principal components, SMART among tasks."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from instsel.choice.rows import TABLE
from instsel.report.facts.record import Record

DIVIDES = {"g2is": "principal component", "smart": "task"}
WEIGHTS = {"g2is": "component_shares", "smart": "task_gains"}
MOST_PARTS = 60


def parts(record: Record) -> dict[str, Any]:
    """The parts of each selection by a method that divides its budget, the first called first.

    Returns:
        selection -> `method`, and `parts`, each with `name`, `rows`, `tokens`, `gain` (sum of the picks' scores),
        `first` and `last` (scores of its first and last pick), and `weight`, by which it was given its share: a
        component's share of the variance, a task's gain; None where the selection keeps to a mixture, or was made by
        0.5.0 or before.
    """
    found = {}
    for name, manifest in record.manifests.items():
        method = manifest["config"].get("method")
        if name.startswith("select/") and method in DIVIDES:
            table = (record.folder / name).read_table(TABLE, ["reason", "tokens", "score"])
            weights = manifest["result"].get(WEIGHTS[method], {})
            own = [{**part, "weight": weights.get(_label(part["name"], method))} for part in _by_reason(table)]
            found[name.partition("/")[2]] = {"method": method, "parts": own}
    return found


def _label(reason: str, method: str) -> str:
    """The component or task that a reason names; SMART's rows may be grouped by anything of one word."""
    return reason.rpartition(" ")[2] if method == "g2is" else reason.partition(" ")[2]


def _by_reason(table: pa.Table) -> list[dict[str, Any]]:
    numbered = table.append_column("place", pa.array(range(len(table)), pa.int64()))
    grouped = numbered.group_by("reason", use_threads=False).aggregate(
        [
            ("place", "min"),
            ("place", "count"),
            ("tokens", "sum"),
            ("score", "sum"),
            ("score", "first"),
            ("score", "last"),
        ]
    )
    ordered = grouped.take(pc.sort_indices(grouped["place_min"]))[:MOST_PARTS]
    return [
        {
            "name": one["reason"],
            "rows": one["place_count"],
            "tokens": one["tokens_sum"],
            "gain": one["score_sum"],
            "first": one["score_first"],
            "last": one["score_last"],
        }
        for one in ordered.to_pylist()
    ]
