"""Held-out losses of the runs that are there, their differences to random, and which methods are best."""

from collections.abc import Mapping, Sequence

import numpy as np

from instsel.report.facts import Results
from instsel.report.markdown import BASE
from instsel.report.record import StudyRecord
from instsel.stats import (
    MEAN,
    Bootstrap,
    Comparison,
    adjusted_p_values,
    compare,
    not_told_apart,
)

Losses = Mapping[str, np.ndarray]
"""Target -> float64 (q,) losses of its held-out examples."""


def results(record: StudyRecord) -> tuple[Results, list[str]]:
    """Compare the evaluated runs.

    Returns:
        The results; without an evaluated run they have the baseline alone. And warnings: a sentence for each run that
        is passed over, because its held-out rows are not those of the others, and one where there are too few
        resamples for any difference to be significant.
    """
    evaluated = record.results("evaluate")
    names = [name for name in (BASE, *record.runs) if name in evaluated]
    targets = _common_targets(record, names)
    losses, warnings = _comparable_losses(record, names, targets)
    runs: dict[str, list[str]] = {BASE: [BASE]} if BASE in losses else {}
    for name in losses:
        if name != BASE:
            runs.setdefault(record.runs[name].method.name, []).append(name)
    methods = (record.runs[names[0]].method for method, names in runs.items() if method != BASE)
    baseline = next((method.name for method in methods if method.is_baseline), BASE)
    evaluation = record.config.evaluation
    if not targets or not losses:
        return Results(baseline=baseline, confidence=evaluation.confidence, runs=runs), warnings
    bootstrap = Bootstrap(evaluation.bootstrap_samples, evaluation.confidence, evaluation.seed)
    by_method = stacked(losses, runs)
    comparisons = comparisons_to(by_method, baseline, bootstrap)
    best = not_told_apart({name: by_run for name, by_run in by_method.items() if name != BASE}, bootstrap)
    return Results(
        baseline=baseline,
        confidence=evaluation.confidence,
        losses=loss_table(pooled(losses, runs)),
        losses_by_run=loss_table(losses),
        differences={name: comparison.intervals for name, comparison in comparisons.items()},
        adjusted_p=adjusted_p_values(comparisons),
        heldout_rows={target: len(values) for target, values in next(iter(losses.values())).items()},
        runs=runs,
        best=best[0] if best else None,
        not_told_apart=best,
        whole_pool=_whole_pool(record, runs),
    ), [*warnings, *_too_few_resamples(bootstrap, len(comparisons))]


def stacked(losses: Mapping[str, Losses], runs: Mapping[str, Sequence[str]]) -> dict[str, dict[str, np.ndarray]]:
    """Lay the losses of each method's runs on each other.

    Args:
        losses: run -> its losses.
        runs: method -> names of its runs (several seeds).

    Returns:
        method -> target -> float64 (runs, q).
    """
    return {
        method: {target: np.stack([losses[run][target] for run in names]) for target in losses[names[0]]}
        for method, names in runs.items()
    }


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


def comparisons_to(losses: Mapping[str, Losses], baseline: str, bootstrap: Bootstrap) -> dict[str, Comparison]:
    """Compare each method with the baseline, the base model too; nothing where the baseline is not evaluated.

    Args:
        losses: method -> target -> float64 (runs, q).
        baseline: name of the method.
        bootstrap: resamples, confidence and seed.
    """
    return compare(losses, baseline, bootstrap) if losses.get(baseline) else {}


def _too_few_resamples(bootstrap: Bootstrap, comparisons: int) -> list[str]:
    needed = bootstrap.samples_needed(comparisons)
    if bootstrap.samples >= needed:
        return []
    return [
        f"evaluation.bootstrap_samples is {bootstrap.samples}: with {comparisons} methods to compare, no difference "
        f"can be significant with fewer than {needed}"
    ]


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
    warnings = []
    for name in names:
        folder = record.folder / "evaluate" / name
        by_target = {}
        for target in targets:
            table = folder.read_table(f"{target}.parquet", ["id", "loss"])
            ids, values = table["id"].to_pylist(), table["loss"].to_numpy()
            if not len(values) or not np.isfinite(values).all():
                warnings.append(f"evaluate/{name} is ignored: {target}.parquet has a loss that is not finite, or none")
            elif rows.setdefault(target, ids) != ids:
                warnings.append(
                    f"evaluate/{name} is ignored: its held-out rows of {target} are not those of {names[0]}"
                )
            else:
                by_target[target] = values
        if len(by_target) == len(targets):
            losses[name] = by_target
    return losses, warnings


def _whole_pool(record: StudyRecord, runs: Mapping[str, Sequence[str]]) -> list[str]:
    """Name the methods whose selection is the whole pool."""
    if record.prepared is None:
        return []
    size, selections = record.prepared["pool"]["rows"], record.results("select")
    names = {method: record.runs[by_seed[0]].selection for method, by_seed in runs.items() if method != BASE}
    return [method for method, name in names.items() if name in selections and selections[name]["rows"] == size]
