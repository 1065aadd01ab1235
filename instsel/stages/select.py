"""Stage *select*: each method picks its rows; every pick is written with its rank, score and reason."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from instsel.config import BidsMethod, LessMethod, RandomMethod, StudyConfig
from instsel.errors import InputError
from instsel.progress import Terminal
from instsel.selection import bids, less, random
from instsel.selection.result import Selection
from instsel.stages.attribution import load_matrix
from instsel.storage import Folder
from instsel.study import Stage

TABLE = "selected.parquet"
ROWS = "selected.jsonl"
TRAINING_SET = "training.arrow"


def rows_to_choose(budget: int | float, pool_rows: int) -> int:
    """Rows that a budget stands for: a count as it is, a share of the pool rounded down but at least one.

    Raises:
        InputError: the count is above the pool.
    """
    if isinstance(budget, float):
        # Rounded first: 0.29 * 100 is 28.999999999999996.
        return max(1, int(round(budget * pool_rows, 6)))
    if budget > pool_rows:
        raise InputError(f"selection.budget is {budget} rows, but the pool has {pool_rows} usable ones; lower it")
    return budget


def run(
    study: StudyConfig,
    stage: Stage,
    method: RandomMethod | LessMethod | BidsMethod,
    seed: int,
    prepare: Stage,
    attribution: Stage,
    terminal: Terminal,
) -> None:
    """Make one selection and write it as a table and as rows to train on."""
    stage.begin()
    pool = prepare.manifest()["result"]["pool"]
    budget = rows_to_choose(study.selection.budget, pool["rows"])
    ids, selection, reasons = _choose(method, seed, budget, prepare.folder, attribution)
    picked = [ids[place] for place in selection.indices]
    table = pa.table(
        {
            "id": pa.array(picked, pa.string()),
            "rank": pa.array(np.arange(len(picked))),
            "score": pa.array(selection.scores),
            "reason": pa.array(reasons, pa.string()),
        }
    )
    result = ray.get(_write_rows.remote(prepare.folder, stage.folder, table))
    terminal.say(f"{stage.name.partition('/')[2]}: {len(picked)} rows, {result['tokens']} tokens")
    stage.commit(result)


def _choose(
    method: RandomMethod | LessMethod | BidsMethod, seed: int, budget: int, prepared: Folder, attribution: Stage
) -> tuple[Sequence[str], Selection, list[str]]:
    if isinstance(method, RandomMethod):
        ids = prepared.read_table("index.parquet", ["id"])["id"].to_pylist()
        selection = random.select(len(ids), budget, seed=seed)
        return ids, selection, [f"uniform draw, seed {seed}"] * len(selection.indices)
    ids, matrix, columns = load_matrix(attribution)
    subtasks = np.asarray(columns["subtask"].to_pylist())
    if isinstance(method, LessMethod):
        selection = less.select(matrix, budget, subtasks=subtasks)
        return ids, selection, [f"subtask {name}" for name in np.unique(subtasks)[_callers(selection)]]
    selection = bids.select(matrix, budget, normalize=method.normalize)
    rows = columns.to_pylist()
    called = [rows[column] for column in _callers(selection)]
    return ids, selection, [f"validation example {row['subtask']}:{row['id']}" for row in called]


def _callers(selection: Selection) -> np.ndarray:
    return np.empty(0, dtype=np.int64) if selection.called_by is None else selection.called_by


@ray.remote
def _write_rows(prepared: Folder, out: Folder, table: pa.Table) -> dict[str, Any]:
    """Fetch the picked rows from their shards; write table and JSONL in pick order, say what they are made of."""
    index = prepared.read_table("index.parquet", ["id", "shard"])
    order = {row: rank for rank, row in enumerate(table["id"].to_pylist())}
    shards = {
        shard for row, shard in zip(*(index[name].to_pylist() for name in ("id", "shard")), strict=True) if row in order
    }
    picked: list[dict[str, Any]] = [{}] * len(order)
    for shard in sorted(shards):
        for row in (prepared / "pool").read_table(f"{shard}.parquet").to_pylist():
            if row["id"] in order:
                picked[order[row["id"]]] = row
    for name in ("source", "task", "tokens", "answer_tokens"):
        table = table.append_column(name, pa.array([row[name] for row in picked]))
    with out.writer(ROWS) as stream:
        for row, item in zip(picked, table.to_pylist(), strict=True):
            line = {
                "messages": row["messages"],
                **{key: item[key] for key in ("id", "source", "task", "score", "reason")},
            }
            stream.write((json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
    training = pa.table(
        {
            "id": table["id"],
            "input_ids": pa.array([row["input_ids"] for row in picked], pa.list_(pa.int32())),
            "labels": pa.array([row["labels"] for row in picked], pa.list_(pa.int32())),
        }
    )
    out.write_table(TRAINING_SET, training)
    out.write_table(TABLE, table)
    return {"rows": len(picked), "tokens": sum(row["tokens"] for row in picked), **_made_of(picked)}


def _made_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    sources: dict[str, int] = {}
    tasks: dict[str, int] = {}
    for row in rows:
        sources[row["source"]] = sources.get(row["source"], 0) + 1
        task = f"{row['source']}/{row['task'] or '-'}"
        tasks[task] = tasks.get(task, 0) + 1
    return {"sources": dict(sorted(sources.items())), "tasks": dict(sorted(tasks.items()))}
