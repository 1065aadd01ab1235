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
        `first` and `last` (scores of its first and last pick).
    """
    found = {}
    for name, manifest in record.manifests.items():
        method = manifest["config"].get("method")
        if name.startswith("select/") and method in DIVIDES:
            table = (record.folder / name).read_table(TABLE, ["reason", "tokens", "score"])
            found[name.partition("/")[2]] = {"method": method, "parts": _by_reason(table)}
    return found


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
