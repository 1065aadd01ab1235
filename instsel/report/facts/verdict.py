"""Held-out losses of the trainings that are there, their differences to random, and which method is best."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from instsel.report.facts.record import Record
from instsel.report.markdown import BASE
from instsel.report.summary import Losses, differences, loss_table, pooled
from instsel.stats import MEAN


def verdict(record: Record) -> tuple[dict[str, Any], list[str]]:
    """What the study shows.

    Returns:
        `losses` by method and target, in nats; `differences` to `baseline` with their intervals; `heldout_rows` by
        target; `seeds`, method -> runs that are there; `best`, the method with the lowest mean loss; `full`, methods
        that took the whole pool. Without an evaluated run it has the baseline alone. And a sentence for each run that
        is left out, because its held-out rows are not those of the others.
    """
    evaluated = record.results("evaluate")
    names = [name for name in (BASE, *record.runs) if name in evaluated]
    targets = _common_targets(record, names)
    losses, left_out = _comparable(record, names, targets)
    columns: dict[str, list[str]] = {BASE: [BASE]} if BASE in losses else {}
    for name in losses:
        if name != BASE:
            columns.setdefault(record.runs[name].method.name, []).append(name)
    methods = (record.runs[name].method for name in losses if name != BASE)
    baseline = next((method.name for method in methods if method.is_baseline), BASE)
    found: dict[str, Any] = {"baseline": baseline, "confidence": record.study.evaluation.confidence, "seeds": columns}
    if not targets or not losses:
        nothing: dict[str, Any] = {"losses": {}, "differences": {}, "heldout_rows": {}, "best": None, "full": []}
        return {**found, **nothing}, left_out
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
    }, left_out


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
    return [
        target
        for target in record.study.targets
        if all(
            target in results[run]["losses"] and (record.folder / "evaluate" / run).exists(f"{target}.parquet")
            for run in runs
        )
    ]


def _comparable(
    record: Record, names: Sequence[str], targets: Sequence[str]
) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """Losses of the runs that were evaluated on the rows of the first of them, and what is said of the others."""
    losses: dict[str, dict[str, np.ndarray]] = {}
    rows: dict[str, list[str]] = {}
    left_out = []
    for name in names:
        folder = record.folder / "evaluate" / name
        own = {}
        for target in targets:
            table = folder.read_table(f"{target}.parquet", ["id", "loss"])
            ids, values = table["id"].to_pylist(), table["loss"].to_numpy()
            if not len(values) or not np.isfinite(values).all():
                left_out.append(f"evaluate/{name} is left out: {target}.parquet has a loss that is no number, or none")
            elif rows.setdefault(target, ids) != ids:
                left_out.append(
                    f"evaluate/{name} is left out: its held-out rows of {target} are not those of {names[0]}"
                )
            else:
                own[target] = values
        if len(own) == len(targets):
            losses[name] = own
    return losses, left_out


def _full(record: Record, columns: dict[str, list[str]]) -> list[str]:
    """Methods whose choice is the whole pool."""
    if record.prepared is None:
        return []
    whole, chosen = record.prepared["pool"]["rows"], record.results("select")
    names = {column: record.runs[runs[0]].selection for column, runs in columns.items() if column != BASE}
    return [column for column, name in names.items() if name in chosen and chosen[name]["rows"] == whole]
