"""Held-out losses of the runs that are there, their differences to random, and which methods are best."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from instsel.report.compared import Results
from instsel.report.headroom import cannot_move, counted_targets
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


def results(record: StudyRecord, budget: int | float | None = None) -> tuple[Results, list[str]]:
    """Compare the evaluated runs of a budget.

    Args:
        record: of the study.
        budget: one of the study's; None is the largest.

    Returns:
        The results; without an evaluated run they have the baseline alone. And warnings: a sentence for each run that
        is passed over, because its held-out rows are not those of the others, and one where there are too few
        resamples for any difference to be significant.
    """
    evaluated = record.results("evaluate")
    names = [name for name in record.names_at(budget) if name in evaluated]
    targets = _common_targets(record, names)
    losses, warnings = _comparable_losses(record, names, targets)
    runs = runs_by_method(record, losses)
    baseline = baseline_of(record, runs)
    evaluation = record.config.evaluation
    if not targets or not losses:
        return Results(baseline=baseline, confidence=evaluation.confidence, runs=runs), warnings
    bootstrap = Bootstrap(evaluation.bootstrap_samples, evaluation.confidence, evaluation.seed)
    excluded = [target for target in cannot_move(record) if target in targets]
    if len(excluded) == len(targets):
        warnings.append("no target can move at this model and budget (Headroom): means are over all, and say nothing")
    whole = _whole_pool(record, runs)
    facts = compared_losses(losses, runs, baseline, bootstrap, whole_pool=whole, excluded=excluded)
    facts = facts.model_copy(update={"searched_share": evaluation.searched_share})
    return facts, [*warnings, *_too_few_resamples(bootstrap, len(facts.differences))]


def compared_losses(
    losses: Mapping[str, Losses], runs: Mapping[str, Sequence[str]], baseline: str, bootstrap: Bootstrap,
    *, whole_pool: Sequence[str] = (), excluded: Sequence[str] = (),
) -> Results:  # fmt: skip
    """Compare the losses of methods.

    Args:
        losses: run -> its losses, of the same held-out rows.
        runs: method -> names of its runs.
        baseline: method that the others are compared with.
        bootstrap: resamples, confidence and seed.
        whole_pool: methods that selected the whole pool.
        excluded: targets that means and verdicts leave out.
    """
    return Results(
        **compared(losses, runs, baseline, bootstrap, excluded=excluded),
        losses=mean_table(pooled(losses, runs), excluded),
        losses_by_run=mean_table(losses, excluded),
        heldout_rows={target: len(values) for target, values in next(iter(losses.values())).items()},
        whole_pool=list(whole_pool),
    )


def compared(
    values: Mapping[str, Losses], runs: Mapping[str, Sequence[str]], baseline: str, bootstrap: Bootstrap,
    *, higher_is_better: bool = False, excluded: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Return the fields of `Compared`: differences to the baseline, their p-values, and the methods that are best.

    Args:
        values: run -> target -> float64 (items,).
        runs: method -> names of its runs.
        baseline: method that the others are compared with.
        bootstrap: resamples, confidence and seed.
        higher_is_better: as for accuracies.
        excluded: targets that means and verdicts leave out.
    """
    by_method = stacked(values, runs)
    comparisons = comparisons_to(by_method, baseline, bootstrap, excluded)
    trained = trained_on_counted(by_method, excluded)
    best = not_told_apart(trained, bootstrap, higher_is_better=higher_is_better)
    return {
        "baseline": baseline,
        "confidence": bootstrap.confidence,
        "runs": runs,
        "differences": {name: comparison.intervals for name, comparison in comparisons.items()},
        "adjusted_p": adjusted_p_values(comparisons),
        "cannot_move": list(excluded),
        "best": best[0] if best else None,
        "not_told_apart": best,
    }


def runs_by_method(record: StudyRecord, names: Iterable[str]) -> dict[str, list[str]]:
    """Group runs by their method, with its budget where the study has several; the base model first."""
    runs: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: name != BASE):
        runs.setdefault(BASE if name == BASE else record.runs[name].arm, []).append(name)
    return runs


def baseline_of(record: StudyRecord, runs: Mapping[str, Sequence[str]]) -> str:
    """Name the method that others are compared with: the first baseline that has a run, else the base model."""
    firsts = (record.runs[names[0]] for method, names in runs.items() if method != BASE)
    return next((run.arm for run in firsts if run.method.is_reference), BASE)


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


def mean_table(values: Mapping[str, Losses], excluded: Collection[str] = ()) -> dict[str, dict[str, float]]:
    """Average losses or scores by method or run and target, with "mean" for the mean over targets not left out."""
    table = {}
    for name, by_target in values.items():
        means = {target: float(np.mean(items)) for target, items in by_target.items()}
        counted = [means[target] for target in counted_targets(means, excluded)]
        table[name] = {**means, MEAN: float(np.mean(counted))} if means else {}
    return table


def trained_on_counted(
    by_method: Mapping[str, Mapping[str, np.ndarray]], excluded: Collection[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the trained methods with the targets that means are over."""
    return {
        name: {target: by_target[target] for target in counted_targets(by_target, excluded)}
        for name, by_target in by_method.items()
        if name != BASE
    }


def comparisons_to(
    losses: Mapping[str, Losses], baseline: str, bootstrap: Bootstrap, excluded: Collection[str] = ()
) -> dict[str, Comparison]:
    """Compare each method with the baseline, the base model too; nothing where the baseline is not evaluated.

    Args:
        losses: method -> target -> float64 (runs, q).
        baseline: name of the method.
        bootstrap: resamples, confidence and seed.
        excluded: targets that the mean is not over.
    """
    if not losses.get(baseline):
        return {}
    comparisons = compare(losses, baseline, bootstrap)
    counted = counted_targets(losses[baseline], excluded)
    if len(counted) == len(losses[baseline]):
        return comparisons
    parts = {name: {target: by_target[target] for target in counted} for name, by_target in losses.items()}
    means = compare(parts, baseline, bootstrap)
    return {
        name: Comparison(
            {**each.intervals, MEAN: means[name].intervals[MEAN]}, {**each.p_values, MEAN: means[name].p_values[MEAN]}
        )
        for name, each in comparisons.items()
    }


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
