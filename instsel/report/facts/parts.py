"""How a selection divided its budget: G2IS among principal components, SMART among tasks."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from instsel.choice.rows import TABLE
from instsel.report.facts.record import Record

DIVIDES = {"g2is": "principal component", "smart": "task"}
MOST_PARTS = 60


def parts(record: Record) -> dict[str, Any]:
    """The parts of each selection by a method that divides its budget, the first called first.

    Returns:
        selection -> `method`, and `parts`, each with `name`, `rows`, `tokens`, `gain` (sum of the picks' scores),
        `first` and `last` (scores of its first and last pick), and `task_gain`, by which SMART gave it its share.
    """
    found = {}
    for name, manifest in record.manifests.items():
        method = manifest["config"].get("method")
        if name.startswith("select/") and method in DIVIDES:
            table = (record.folder / name).read_table(TABLE, ["reason", "tokens", "score"])
            gains = manifest["result"].get("task_gains", {})
            own = [{**part, "task_gain": gains.get(_task(part["name"]))} for part in _by_reason(table)]
            found[name.partition("/")[2]] = {"method": method, "parts": own}
    return found


def _task(reason: str) -> str:
    """The task that a reason of SMART names, whatever its rows were grouped by."""
    return reason.partition(" ")[2]


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
