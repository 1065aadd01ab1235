"""Rows worth reading: the picks that help each target most, the first picks of each selection, and rejected rows."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instsel.choice.output import TABLE
from instsel.data.encode import reason_kind
from instsel.data.messages import Message
from instsel.report.facts import Pick, Reading, ReadingRow, RejectedByFile, RejectedRow, RejectedRows
from instsel.report.influence import ChosenRows
from instsel.report.pool import Pool
from instsel.report.record import StudyRecord

BEST = 8
FIRST = 3
MOST_ROWS = 400
MOST_REJECTED = 5
MOST_FILES = 200
MOST_NAMED_FILES = 50
NO_GRADIENT = "no usable gradient"

Texts = Mapping[str, list[Message]]
"""Id of a row -> its messages, each with role and content."""


def reading(pool: Pool, chosen: ChosenRows | None) -> Reading:
    """Choose the rows that a person should look at; without influence there are no best ones."""
    best: dict[str, np.ndarray] = {}
    if chosen is not None:
        for index, target in enumerate(chosen.targets):
            order = np.argsort(-chosen.standard[:, index], kind="stable")[:BEST]
            best[target] = chosen.indices[order]
    first = [indices[:FIRST] for indices in pool.chosen.values()]
    shown = list(dict.fromkeys(np.concatenate([*best.values(), *first]).tolist() if best or first else []))[:MOST_ROWS]
    lines = pool.index.take(pa.array(shown, pa.int64())).to_pylist()
    helps, picks = _helps(chosen, shown), _picks(pool, [line["id"] for line in lines])
    rows = {
        line["id"]: ReadingRow(
            source=line["source"],
            task=line["task"],
            tokens=line["tokens"],
            shard=line["shard"],
            helps=helps.get(index, {}),
            picks=picks[line["id"]],
        )
        for index, line in zip(shown, lines, strict=True)
    }
    by_target = {target: pool.ids.take(pa.array(indices)).to_pylist() for target, indices in best.items()}
    return Reading(
        best={target: [name for name in ids if name in rows] for target, ids in by_target.items()}, rows=rows
    )


def _helps(chosen: ChosenRows | None, shown: list[int]) -> dict[int, dict[str, float]]:
    """Return the influence of rows by target: index in the pool -> target -> deviations above the pool's mean."""
    if chosen is None:
        return {}
    return {
        int(chosen.indices[row]): dict(zip(chosen.targets, chosen.standard[row].tolist(), strict=True))
        for row in np.flatnonzero(np.isin(chosen.indices, shown)).tolist()
    }


def _picks(pool: Pool, rows: list[str]) -> dict[str, list[Pick]]:
    """Return which selections have each row, at which rank, with which score and why."""
    ids = pa.array(rows, pa.string())
    picks: dict[str, list[Pick]] = {name: [] for name in rows}
    for selection in pool.chosen:
        table = (pool.record.folder / "select" / selection).read_table(TABLE, ["id", "rank", "score", "reason"])
        for line in table.filter(pc.is_in(table["id"], ids)).to_pylist():
            pick = Pick(selection=selection, rank=line["rank"] + 1, score=line["score"], reason=line["reason"])
            picks[line["id"]].append(pick)
    return picks


def read_texts(record: StudyRecord, rows: Mapping[str, ReadingRow]) -> Texts:
    """Read the messages of some rows from the shards that hold them."""
    texts = {}
    for shard in sorted({row.shard for row in rows.values()}):
        ids = pa.array([name for name, row in rows.items() if row.shard == shard], pa.string())
        table = (record.folder / "prepare" / "pool").read_table(f"{shard}.parquet", ["id", "messages"])
        for line in table.filter(pc.is_in(table["id"], ids)).to_pylist():
            texts[line["id"]] = line["messages"]
    return texts


def rejected_rows(record: StudyRecord) -> RejectedRows:
    """Count rejected rows by reason, and pick examples of each reason."""
    if record.prepared is None:
        return RejectedRows()
    counts: dict[str, int] = dict(record.prepared["pool"]["rejected"])
    examples: dict[str, list[RejectedRow]] = {reason: [] for reason in counts}
    folder = record.folder / "prepare" / "rejected"
    for name in sorted(folder.names())[:MOST_FILES] if counts else []:
        if all(len(kept) == min(MOST_REJECTED, counts[reason]) for reason, kept in examples.items()):
            break
        for line in folder.read_table(name)[: MOST_REJECTED * MOST_FILES].to_pylist():
            kept = examples.setdefault(reason_kind(line["reason"]), [])
            if len(kept) < MOST_REJECTED:
                kept.append(RejectedRow.model_validate(line))
    features = record.manifests.get("features")
    without_gradient: dict[str, str] = {} if features is None else features["result"]["rejected"]
    if without_gradient:
        counts[NO_GRADIENT] = len(without_gradient)
        examples[NO_GRADIENT] = [
            RejectedRow(file="", line=None, reason=reason, text=row)
            for row, reason in list(without_gradient.items())[:MOST_REJECTED]
        ]
    shown = [row for kept in examples.values() for row in kept]
    files = {uri: file for uri, file in record.prepared["pool"].get("files", {}).items() if file["rejected"]}
    # Those that gave least come first.
    worst = sorted(files, key=lambda uri: (files[uri]["rows"] > 0, -sum(files[uri]["rejected"].values()), uri))
    return RejectedRows(
        counts=counts,
        examples=shown,
        files={
            uri: RejectedByFile(rows=files[uri]["rows"], rejected=files[uri]["rejected"])
            for uri in worst[:MOST_NAMED_FILES]
        },
        without_gradient=without_gradient,
    )
