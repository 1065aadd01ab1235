"""All facts of a study folder in one dict of JSON values."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instsel.choice.output import TABLE
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.mixture.interaction import agreement
from instsel.report.facts.composition import composition, lengths, overlap
from instsel.report.facts.influence import influence, orders, stored_influence
from instsel.report.facts.pool import Pool
from instsel.report.facts.reading import refused, rows_to_read
from instsel.report.facts.record import Record
from instsel.report.facts.trust import warnings
from instsel.report.facts.verdict import verdict

SUMMARY = "summary.json"
SEARCH = "search"


def gather(record: Record) -> dict[str, Any]:
    """What the page of a study shows, of a finished study and of one that is under way.

    Args:
        record: of the study.

    Returns:
        JSON values. Parts that the study does not have are empty: `composition` without *prepare*, `influence` without
        gradients, `interaction` and `mixtures` without categories, `search` without a search.
    """
    chosen = record.results("select")
    shown, left_out = verdict(record)
    found: dict[str, Any] = {
        "study": record.study.name,
        "place": record.place,
        "model": record.study.model.name,
        "dtype": record.study.model.dtype,
        "budget": record.study.selection.budget,
        "unit": record.study.selection.unit,
        "doubts": [*warnings(record), *left_out],
        "missing": record.missing,
        **shown,
        "pool": {key: record.prepared["pool"][key] for key in ("rows", "tokens")} if record.prepared else None,
        "targets": record.prepared["targets"] if record.prepared else {},
        "selections": {name: {key: made[key] for key in ("rows", "tokens")} for name, made in chosen.items()},
        "parts": parts(record),
        "refused": refused(record),
        **_categories(record),
        "orders": orders(record),
        "search": _search(record),
        "cost": {name: manifest["cost"] for name, manifest in record.manifests.items()},
        "versions": _versions(record),
        "fingerprints": {name: manifest["fingerprint"] for name, manifest in record.manifests.items()},
        "study_file": record.study_file,
    }
    return without_nan({**found, **_of_pool(record)})


def _of_pool(record: Record) -> dict[str, Any]:
    """What takes a look at the pool's rows."""
    if record.prepared is None:
        return {"makeup": {}, "lengths": {}, "overlap": {"names": [], "shares": []}, "influence": {}, "reading": {}}
    pool = Pool(record)
    way, served = stored_influence(record), None
    found: dict[str, Any] = {}
    if way is not None and pool.chosen:
        found, served = influence(pool, way, pool.facets["source"])
    return {
        "makeup": composition(pool),
        "lengths": lengths(pool),
        "overlap": overlap(pool),
        "influence": found,
        "reading": rows_to_read(pool, served),
    }


def _categories(record: Record) -> dict[str, Any]:
    found = record.results("interaction")
    tag = record.manifests.get("categorize")
    names = list(found)
    compared = {}
    for name in names[1:]:
        pair = (np.array(found[one]["gamma"], dtype=np.float64) for one in (names[0], name))
        compared[f"{names[0]} against {name}"] = asdict(agreement(*pair))
    mixtures = {name: made["mixture"] for name, made in record.results("select").items() if "mixture" in made}
    return {
        "categories": tag["result"]["sizes"] if tag and found else {},
        "interaction": found,
        "agreement": compared,
        "mixtures": mixtures,
    }


def _search(record: Record) -> dict[str, Any]:
    folder = record.folder / SEARCH
    found: dict[str, Any] = folder.read_json(SUMMARY) if folder.exists(SUMMARY) else {}
    return found


def _versions(record: Record) -> dict[str, str]:
    """Versions of the packages that the report was made with, and of the code that made each stage."""
    found = dict(stored_summary(record.folder / "report").get("versions", {}))
    code = sorted({manifest["code_version"] for manifest in record.manifests.values()})
    return {**found, "instsel": ", ".join(code)} if code else found


def stored_summary(folder: Folder) -> dict[str, Any]:
    """What was reported before; empty where nothing was, or where it cannot be read, as it is written anew."""
    try:
        found = folder.read_json(SUMMARY) if folder.exists(SUMMARY) else {}
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}


def without_nan(value: Any) -> Any:
    """The same value with None for every number that JSON cannot write."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


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
        method = manifest["settings"].get("method")
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
