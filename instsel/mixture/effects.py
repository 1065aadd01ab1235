"""From the scores of runs to the effects of adding and of removing categories."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from instsel.mixture.design import PlannedRun

Scores = list[NDArray[np.float64]]
"""Of one run: for each category, the scores of the rows it is evaluated on; higher is better."""

Array = NDArray[np.float64]


def effects_of_additions(
    runs: Sequence[PlannedRun], scores: Sequence[Scores | None], added_rows: int
) -> tuple[Array, Array]:
    """How much better each category is done after rows of another were added.

    Where a category had fewer rows to add, its effect is scaled to `added_rows` of them.

    Args:
        runs: base samples and runs with a category added; others are passed over.
        scores: of each run; None for one that failed.
        added_rows: rows of a full addition.

    Returns:
        Effects (B, K, K), [sample, added, evaluated], mean over the evaluated rows, NaN where a run failed; and their
        standard errors over the evaluated rows, a row's scores before and after taken as a pair.
    """
    bases = {one.sample: values for one, values in zip(runs, scores, strict=True) if one.kind == "base"}
    size = len(runs[0].added)
    effects, errors = (np.full((len(bases), size, size), np.nan) for _ in range(2))
    for one, values in zip(runs, scores, strict=True):
        base = bases[one.sample]
        if one.kind != "add" or values is None or base is None:
            continue
        scale = added_rows / one.added[one.category]  # type: ignore[index]
        for place in range(size):
            change = scale * (values[place] - base[place])
            effects[one.sample, one.category, place] = change.mean()
            errors[one.sample, one.category, place] = _error(change)
    return effects, errors


def effects_of_removals(
    runs: Sequence[PlannedRun], scores: Sequence[Scores | None], size: int
) -> tuple[Array, Array, Array]:
    """Scores with and without each category.

    Args:
        runs: base samples and runs with a category removed; others are passed over.
        scores: of each run; None for one that failed.
        size: K.

    Returns:
        Full (B, K), mean scores of the base samples; without (B, K, K), [sample, removed, evaluated], NaN where a run
        failed or the sample had nothing to remove; and the standard errors of their difference, (B, K, K).
    """
    bases = {one.sample: values for one, values in zip(runs, scores, strict=True) if one.kind == "base"}
    full = np.full((len(bases), size), np.nan)
    for sample, values in bases.items():
        if values is not None:
            full[sample] = [each.mean() for each in values]
    without, errors = (np.full((len(bases), size, size), np.nan) for _ in range(2))
    for one, values in zip(runs, scores, strict=True):
        base = bases[one.sample]
        if one.kind != "remove" or values is None or base is None:
            continue
        for place in range(size):
            without[one.sample, one.category, place] = values[place].mean()
            errors[one.sample, one.category, place] = _error(base[place] - values[place])
    return full, without, errors


def subset_scores(runs: Sequence[PlannedRun], scores: Sequence[Scores | None], added_rows: int) -> tuple[Array, Array]:
    """What runs on random subsets had, in units of one addition, (R, K), and their mean scores, (R, K).

    Runs that failed are left out.
    """
    done = [(one, values) for one, values in zip(runs, scores, strict=True) if values is not None]
    included = np.array([one.added for one, _ in done], dtype=np.float64) / added_rows
    return included, np.array([[each.mean() for each in values] for _, values in done])


def _error(change: Array) -> float:
    return float(change.std(ddof=1) / np.sqrt(len(change)))
