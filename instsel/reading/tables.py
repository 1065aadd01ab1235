"""Tables of what a study found, one line each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instsel.choice.figures import Figures
from instsel.choice.inputs import Inputs
from instsel.errors import InputError
from instsel.stages.graph import Run

ROW = ["id", "source", "task", "messages", "tokens", "answer_tokens", "file", "line"]


def row_table(inputs: Inputs, ids: Sequence[str]) -> pa.Table:
    """Rows of the pool with their messages, in the order of `ids`; only their shards are read.

    Raises:
        InputError: an id is no row of the pool.
    """
    places = pc.index_in(pa.array(ids, pa.string()), inputs.index["id"].combine_chunks())
    if places.null_count:
        raise InputError(f"{inputs.study} has no pool row {ids[places.to_pylist().index(None)]!r}; `pool` lists them")
    shards = inputs.index["shard"].take(places).unique().to_pylist() or inputs.shards[:1]
    wanted, folder = pa.array(ids, pa.string()), inputs.study / "prepare" / "pool"
    tables = (folder.read_table(f"{shard}.parquet", ROW) for shard in shards)
    table = pa.concat_tables([table.filter(pc.is_in(table["id"], wanted)) for table in tables])
    return table.take(pc.index_in(wanted, table["id"].combine_chunks()))


def loss_table(losses: Mapping[str, Mapping[str, float]], runs: Mapping[str, Run]) -> pa.Table:
    """One line a run: run, method, seed, the mean held-out loss of each target, and the mean over targets (nats)."""
    lines: list[dict[str, Any]] = []
    for name, by_target in losses.items():
        run = runs.get(name)
        mean = float(np.mean(list(by_target.values()))) if by_target else None
        told = {"run": name, "method": run.method.name if run else name, "seed": run.seed if run else None}
        lines.append({**told, **by_target, "mean": mean})
    return pa.Table.from_pylist(lines)


def comparison_table(summary: Mapping[str, Any]) -> pa.Table:
    """One line a method and target (and `mean`): loss, and the difference to the baseline with its interval."""
    lines = []
    for method, losses in summary["losses"].items():
        for target, loss in losses.items():
            interval = summary["differences"].get(method, {}).get(target, {})
            difference = {key: interval.get(key) for key in ("difference", "low", "high")}
            lines.append({"method": method, "target": target, "loss": loss, **difference})
    columns = {"loss": pa.float64(), "difference": pa.float64(), "low": pa.float64(), "high": pa.float64()}
    return pa.Table.from_pylist(lines, pa.schema({"method": pa.string(), "target": pa.string(), **columns}))


def served_table(found: Mapping[str, Figures]) -> pa.Table:
    """One line a selection and target: rows that serve it most, and the mean standardised influence on it."""
    lines = [
        {"selection": name, "target": target, "rows": rows, "influence": figures.influence[target]}
        for name, figures in found.items()
        for target, rows in figures.served.items()
    ]
    columns = {"selection": pa.string(), "target": pa.string(), "rows": pa.int64(), "influence": pa.float64()}
    return pa.Table.from_pylist(lines, pa.schema(columns))
