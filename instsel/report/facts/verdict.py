"""Held-out losses of the trainings that are there, their differences to random, and which method is best."""

from dataclasses import asdict
from typing import Any

import numpy as np

from instsel.evaluation.bootstrap import MEAN
from instsel.methods import RandomMethod
from instsel.report.facts.record import Record
from instsel.report.markdown import BASE
from instsel.report.summary import Losses, differences, loss_table, pooled


def verdict(record: Record) -> dict[str, Any]:
    """What the study shows.

    Returns:
        `losses` by method and target, in nats; `differences` to `baseline` with their intervals; `heldout_rows` by
        target; `seeds`, method -> runs that are there; `best`, the method with the lowest mean loss; `full`, methods
        that took the whole pool. Without an evaluated run it has the baseline alone.
    """
    evaluated = record.results("evaluate")
    runs = {name: run for name, run in record.runs.items() if name in evaluated}
    columns: dict[str, list[str]] = {BASE: [BASE]} if BASE in evaluated else {}
    for name, run in runs.items():
        columns.setdefault(run.method.name, []).append(name)
    baseline = next((run.method.name for run in runs.values() if isinstance(run.method, RandomMethod)), BASE)
    found: dict[str, Any] = {"baseline": baseline, "confidence": record.study.evaluation.confidence, "seeds": columns}
    targets = _common_targets(record, [name for names in columns.values() for name in names])
    if not targets:
        return {**found, "losses": {}, "differences": {}, "heldout_rows": {}, "best": None, "full": []}
    losses = {name: _read(record, name, targets) for names in columns.values() for name in names}
    by_column = pooled(losses, columns)
    table = loss_table(by_column)
    trained = {name: by_target[MEAN] for name, by_target in table.items() if name != BASE}
    return {
        **found,
        "losses": table,
        "differences": _differences(record, by_column, baseline),
        "heldout_rows": {target: len(values) for target, values in next(iter(losses.values())).items()},
        "best": min(trained, key=lambda name: trained[name], default=None),
        "full": _full(record, columns),
    }


def _differences(record: Record, losses: Losses | dict[str, Any], baseline: str) -> dict[str, Any]:
    if baseline not in losses:
        return {}
    part = record.study.evaluation
    how: dict[str, Any] = {"samples": part.bootstrap_samples, "confidence": part.confidence, "seed": part.seed}
    found = differences(losses, baseline, **how)  # type: ignore[arg-type]
    return {name: {target: asdict(one) for target, one in by_target.items()} for name, by_target in found.items()}


def _common_targets(record: Record, runs: list[str]) -> list[str]:
    results = record.results("evaluate")
    if not runs:
        return []
    # Named by the study file, whose names are checked: they become names of files.
    return [target for target in record.study.targets if all(target in results[run]["losses"] for run in runs)]


def _read(record: Record, run: str, targets: list[str]) -> dict[str, np.ndarray]:
    folder = record.folder / "evaluate" / run
    return {target: folder.read_table(f"{target}.parquet", ["loss"])["loss"].to_numpy() for target in targets}


def _full(record: Record, columns: dict[str, list[str]]) -> list[str]:
    """Methods whose choice is the whole pool."""
    if record.prepared is None:
        return []
    whole, chosen = record.prepared["pool"]["rows"], record.results("select")
    names = {column: record.runs[runs[0]].selection for column, runs in columns.items() if column != BASE}
    return [column for column, name in names.items() if name in chosen and chosen[name]["rows"] == whole]
