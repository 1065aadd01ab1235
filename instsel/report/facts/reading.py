"""Rows worth reading: the picks that help each target most, the first picks of each selection, and refused rows."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instsel.choice.output import TABLE
from instsel.report.facts.influence import Served
from instsel.report.facts.pool import Pool
from instsel.report.facts.record import Record

BEST = 8
FIRST = 3
MOST_ROWS = 400
REFUSED = 5
LOOKED_AT = 200


def rows_to_read(pool: Pool, served: Served | None) -> dict[str, Any]:
    """Rows that a person should look at.

    Returns:
        `best`, target -> ids of the picks that help it most, the most first (empty without influence); `rows`, id ->
        `source`, `task`, `tokens`, `helps` (target -> deviations above the pool's mean) and `picks` (selection, rank
        from 1, score, reason). Their texts are in the study's Parquet: see `texts`.
    """
    best: dict[str, np.ndarray] = {}
    if served is not None:
        for number, target in enumerate(served.targets):
            order = np.argsort(-served.standard[:, number], kind="stable")[:BEST]
            best[target] = served.places[order]
    first = [places[:FIRST] for places in pool.chosen.values()]
    wanted = list(dict.fromkeys(np.concatenate([*best.values(), *first]).tolist() if best or first else []))[:MOST_ROWS]
    lines = pool.index.take(pa.array(wanted, pa.int64())).to_pylist()
    helps = _helps(served, wanted)
    found = {
        line["id"]: {
            "source": line["source"],
            "task": line["task"],
            "tokens": line["tokens"],
            "shard": line["shard"],
            "helps": helps.get(place, {}),
            "picks": [],
        }
        for place, line in zip(wanted, lines, strict=True)
    }
    _add_picks(pool.record, list(pool.chosen), found)
    by_target = {target: pool.ids.take(pa.array(places)).to_pylist() for target, places in best.items()}
    return {"best": {name: [row for row in ids if row in found] for name, ids in by_target.items()}, "rows": found}


def _helps(served: Served | None, places: list[int]) -> dict[int, dict[str, float]]:
    if served is None:
        return {}
    number = {int(served.places[one]): one for one in np.flatnonzero(np.isin(served.places, places)).tolist()}
    return {
        place: dict(zip(served.targets, served.standard[one].tolist(), strict=True)) for place, one in number.items()
    }


def _add_picks(record: Record, names: list[str], rows: dict[str, Any]) -> None:
    """Add to each row which selections have it, at which rank, with which score and why."""
    ids = pa.array(list(rows), pa.string())
    for name in names:
        table = (record.folder / "select" / name).read_table(TABLE, ["id", "rank", "score", "reason"])
        for pick in table.filter(pc.is_in(table["id"], ids)).to_pylist():
            told = {"selection": name, "rank": pick["rank"] + 1, "score": pick["score"], "reason": pick["reason"]}
            rows[pick["id"]]["picks"].append(told)


def texts(record: Record, rows: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """The messages of some rows: id -> role and content, from the shards that hold them."""
    found = {}
    for shard in sorted({row["shard"] for row in rows.values()}):
        ids = pa.array([name for name, row in rows.items() if row["shard"] == shard], pa.string())
        table = (record.folder / "prepare" / "pool").read_table(f"{shard}.parquet", ["id", "messages"])
        for line in table.filter(pc.is_in(table["id"], ids)).to_pylist():
            found[line["id"]] = line["messages"]
    return found


def refused(record: Record) -> dict[str, Any]:
    """Rows that were set aside: `counts` by reason, and `examples` of each reason: file, line, reason, text."""
    if record.prepared is None:
        return {"counts": {}, "examples": []}
    counts: dict[str, int] = dict(record.prepared["pool"]["rejected"])
    examples: dict[str, list[dict[str, Any]]] = {reason: [] for reason in counts}
    folder = record.folder / "prepare" / "rejected"
    for name in sorted(folder.names())[:LOOKED_AT] if counts else []:
        if all(len(kept) == min(REFUSED, counts[reason]) for reason, kept in examples.items()):
            break
        for line in folder.read_table(name)[: REFUSED * LOOKED_AT].to_pylist():
            kept = examples.setdefault(line["reason"], [])
            if len(kept) < REFUSED:
                kept.append({key: line[key] for key in ("file", "line", "reason", "text")})
    aside = record.manifests.get("features", {}).get("result", {}).get("rejected", {})
    for row, reason in list(aside.items())[:REFUSED]:
        examples.setdefault("no usable gradient", []).append({"file": "", "line": None, "reason": reason, "text": row})
    if aside:
        counts["no usable gradient"] = len(aside)
    return {"counts": counts, "examples": [line for kept in examples.values() for line in kept]}
