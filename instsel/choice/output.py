"""A choice as files: a table of the picks, the rows as JSONL, and the examples that a training run reads."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from instsel.io.store import Folder
from instsel.training.dataset import SCHEMA

TABLE = "selected.parquet"
ROWS = "selected.jsonl"
TRAINING_SET = "training.arrow"


def write_rows(prepared: Folder, out: Folder, picks: pa.Table) -> dict[str, Any]:
    """Fetch the picked rows from their shards and write them in pick order.

    Args:
        prepared: folder of stage *prepare*.
        out: where to write.
        picks: id, rank, score, reason.

    Returns:
        Rows and tokens, and how many rows are of each source and task.
    """
    order = {row: rank for rank, row in enumerate(picks["id"].to_pylist())}
    picked: list[dict[str, Any]] = [{}] * len(order)
    for shard in _shards(prepared, order):
        for row in (prepared / "pool").read_table(f"{shard}.parquet").to_pylist():
            if row["id"] in order:
                picked[order[row["id"]]] = row
    table = picks
    for name in ("source", "task", "tokens", "answer_tokens"):
        table = table.append_column(name, pa.array([row[name] for row in picked]))
    with out.writer(ROWS) as stream:
        for row, item in zip(picked, table.to_pylist(), strict=True):
            line = {
                "messages": row["messages"],
                **{key: item[key] for key in ("id", "source", "task", "score", "reason")},
            }
            stream.write((json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
    out.write_table(TRAINING_SET, _training_set(picked))
    out.write_table(TABLE, table)
    return {"rows": len(picked), "tokens": sum(row["tokens"] for row in picked), **_made_of(picked)}


def write_training_sets(prepared: Folder, folders: Mapping[str, Folder], sets: Mapping[str, Sequence[str]]) -> None:
    """Write the training set of several runs, with one look at each shard.

    Args:
        prepared: folder of stage *prepare*.
        folders: run -> where to write it.
        sets: run -> ids of its rows, in order.
    """
    wanted = {row for ids in sets.values() for row in ids}
    found: dict[str, dict[str, Any]] = {}
    for shard in _shards(prepared, wanted):
        table = (prepared / "pool").read_table(f"{shard}.parquet", ["id", "input_ids", "labels"])
        found |= {row["id"]: row for row in table.to_pylist() if row["id"] in wanted}
    for name, ids in sets.items():
        folders[name].write_table(TRAINING_SET, _training_set([found[row] for row in ids]))


def _shards(prepared: Folder, rows: Collection[str]) -> list[str]:
    """Shards that have some of these rows."""
    index = prepared.read_table("index.parquet", ["id", "shard"])
    wanted = index.filter(pc.is_in(index["id"], pa.array(list(rows), pa.string())))
    return sorted(wanted["shard"].unique().to_pylist())


def _training_set(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.table({name: pa.array([row[name] for row in rows], SCHEMA.field(name).type) for name in SCHEMA.names})


def _made_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    sources: dict[str, int] = {}
    tasks: dict[str, int] = {}
    for row in rows:
        sources[row["source"]] = sources.get(row["source"], 0) + 1
        task = f"{row['source']}/{row['task'] or '-'}"
        tasks[task] = tasks.get(task, 0) + 1
    return {"sources": dict(sorted(sources.items())), "tasks": dict(sorted(tasks.items()))}
