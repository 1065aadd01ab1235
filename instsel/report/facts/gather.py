"""All facts of a study folder in one dict of JSON values."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from instsel.errors import InputError
from instsel.mixture.agreement import agreement
from instsel.report.facts.influence import influence, stored_influence
from instsel.report.facts.makeup import lengths, makeup, overlap
from instsel.report.facts.order import orders
from instsel.report.facts.parts import parts
from instsel.report.facts.pool import Pool
from instsel.report.facts.reading import refused, rows_to_read
from instsel.report.facts.record import Record
from instsel.report.facts.trust import doubts
from instsel.report.facts.verdict import verdict
from instsel.storage import Folder

SUMMARY = "summary.json"
SEARCH = "search"


def gather(record: Record) -> dict[str, Any]:
    """What the page of a study shows, of a finished study and of one that is under way.

    Args:
        record: of the study.

    Returns:
        JSON values. Parts that the study does not have are empty: `makeup` without *prepare*, `influence` without
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
        "doubts": [*doubts(record), *left_out],
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
        "makeup": makeup(pool),
        "lengths": lengths(pool),
        "overlap": overlap(pool),
        "influence": found,
        "reading": rows_to_read(pool, served),
    }


def _categories(record: Record) -> dict[str, Any]:
    found = record.results("interaction")
    tag = record.manifests.get("tag")
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
