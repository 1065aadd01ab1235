"""Held-out losses of the runs that are there, their differences to random, and which method is best."""

from collections.abc import Mapping, Sequence

import numpy as np

from instsel.report.facts import Results
from instsel.report.markdown import BASE
from instsel.report.record import StudyRecord
from instsel.stats import MEAN, Interval, paired_bootstrap

Losses = Mapping[str, np.ndarray]
"""Target -> float64 (q,) losses of its held-out examples."""


def results(record: StudyRecord) -> tuple[Results, list[str]]:
    """Compare the evaluated runs.

    Returns:
        The results; without an evaluated run they have the baseline alone. And a sentence for each run that is passed
        over, because its held-out rows are not those of the others.
    """
    evaluated = record.results("evaluate")
    names = [name for name in (BASE, *record.runs) if name in evaluated]
    targets = _common_targets(record, names)
    losses, incomparable = _comparable_losses(record, names, targets)
    runs: dict[str, list[str]] = {BASE: [BASE]} if BASE in losses else {}
    for name in losses:
        if name != BASE:
            runs.setdefault(record.runs[name].method.name, []).append(name)
    methods = (record.runs[names[0]].method for method, names in runs.items() if method != BASE)
    baseline = next((method.name for method in methods if method.is_baseline and method.is_comparable), BASE)
    evaluation = record.config.evaluation
    if not targets or not losses:
        return Results(baseline=baseline, confidence=evaluation.confidence, runs=runs), incomparable
    by_method = pooled(losses, runs)
    table = loss_table(by_method)
    trained = {name: by_target[MEAN] for name, by_target in table.items() if name != BASE}
    differences = {}
    if baseline in by_method:
        differences = differences_to(
            by_method,
            baseline,
            samples=evaluation.bootstrap_samples,
            confidence=evaluation.confidence,
            seed=evaluation.seed,
        )
    return Results(
        baseline=baseline,
        confidence=evaluation.confidence,
        losses=table,
        losses_by_run=loss_table(losses),
        differences=differences,
        heldout_rows={target: len(values) for target, values in next(iter(losses.values())).items()},
        runs=runs,
        best=min(trained, key=lambda name: trained[name], default=None),
        whole_pool=_whole_pool(record, runs),
    ), incomparable


def pooled(losses: Mapping[str, Losses], runs: Mapping[str, Sequence[str]]) -> dict[str, dict[str, np.ndarray]]:
    """Average the per-example losses of each method over its runs.

    Args:
        losses: run -> its losses.
        runs: method -> names of its runs (several seeds).

    Returns:
        method -> target -> float64 (q,).
    """
    return {
        method: {target: np.mean([losses[run][target] for run in names], axis=0) for target in losses[names[0]]}
        for method, names in runs.items()
    }


def loss_table(losses: Mapping[str, Losses]) -> dict[str, dict[str, float]]:
    """Average losses by method or run and target, with "mean" for the mean over targets; nats."""
    table = {}
    for name, by_target in losses.items():
        means = {target: float(np.mean(values)) for target, values in by_target.items()}
        table[name] = {**means, MEAN: float(np.mean(list(means.values())))} if means else {}
    return table


def differences_to(
    losses: Mapping[str, Losses], baseline: str, *, samples: int, confidence: float, seed: int
) -> dict[str, dict[str, Interval]]:
    """Return the difference of each method to the baseline with its paired bootstrap interval, by target and mean."""
    if not losses[baseline]:
        return {}
    return {
        method: paired_bootstrap(by_target, losses[baseline], samples=samples, confidence=confidence, seed=seed)
        for method, by_target in losses.items()
        if method != baseline
    }


def _common_targets(record: StudyRecord, runs: Sequence[str]) -> list[str]:
    evaluated = record.results("evaluate")
    if not runs:
        return []
    # Named by the study file, whose names are checked: they become names of files.
    return [
        target
        for target in record.config.targets
        if all(
            target in evaluated[run]["losses"] and (record.folder / "evaluate" / run).exists(f"{target}.parquet")
            for run in runs
        )
    ]


def _comparable_losses(
    record: StudyRecord, names: Sequence[str], targets: Sequence[str]
) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """Read losses of the runs that were evaluated on the rows of the first of them; name the others, and why."""
    losses: dict[str, dict[str, np.ndarray]] = {}
    rows: dict[str, list[str]] = {}
    incomparable = []
    for name in names:
        folder = record.folder / "evaluate" / name
        by_target = {}
        for target in targets:
            table = folder.read_table(f"{target}.parquet", ["id", "loss"])
            ids, values = table["id"].to_pylist(), table["loss"].to_numpy()
            if not len(values) or not np.isfinite(values).all():
                incomparable.append(
                    f"evaluate/{name} is ignored: {target}.parquet has a loss that is not finite, or none"
                )
            elif rows.setdefault(target, ids) != ids:
                incomparable.append(
                    f"evaluate/{name} is ignored: its held-out rows of {target} are not those of {names[0]}"
                )
            else:
                by_target[target] = values
        if len(by_target) == len(targets):
            losses[name] = by_target
    return losses, incomparable


def _whole_pool(record: StudyRecord, runs: Mapping[str, Sequence[str]]) -> list[str]:
    """Name the methods whose selection is the whole pool."""
    if record.prepared is None:
        return []
    size, selections = record.prepared["pool"]["rows"], record.results("select")
    names = {method: record.runs[by_seed[0]].selection for method, by_seed in runs.items() if method != BASE}
    return [method for method, name in names.items() if name in selections and selections[name]["rows"] == size]
