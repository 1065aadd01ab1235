"""Training runs that measure the effects of categories on each other: their rows, and effects from their scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from instsel.mixture.categories import Categories
from instsel.strict import StrictModel


class Interventions(StrictModel):
    bases: int = Field(3, ge=1, description="base samples; two or more give standard errors of training")
    base_rows: int = Field(200, ge=1, description="rows of a base sample, drawn uniformly")
    added_rows: int = Field(100, ge=1, description="rows of a category that are added to a base sample")
    removals: bool = Field(True, description="also train on each base sample without each category, for dependencies")
    seed: int = Field(0, ge=0, description="seed of the samples")


class Regression(StrictModel):
    runs: int = Field(16, ge=3, description="runs, each trained on a random subset of the categories")
    share: float = Field(0.5, ge=0.1, le=0.9, description="probability of a category to be in a run")
    base_rows: int = Field(100, ge=1, description="rows that every run has, drawn uniformly")
    added_rows: int = Field(50, ge=1, description="rows of each category in the subset")
    ridge: float = Field(0.01, ge=0, description="penalty, in units of the design's mean square")
    seed: int = Field(0, ge=0, description="seed of the subsets")


def standard_error(rest: ArrayLike, within: ArrayLike) -> NDArray[np.float64]:
    """Compute the standard error of means over samples.

    Args:
        rest: (B, ...), residuals of the samples from their mean; NaN where there is no sample.
        within: (B, ...), standard error of each sample itself; NaN where it is unknown.

    Returns:
        float64 (...): from the spread of the samples if there are two or more, else the error within the single
        sample; NaN without either.
    """
    left, inside = np.asarray(rest, dtype=np.float64), np.asarray(within, dtype=np.float64)
    samples = np.isfinite(left).sum(axis=0)
    spread = np.sqrt(np.nansum(left**2, axis=0) / np.maximum(samples - 1, 1) / np.maximum(samples, 1))
    usable = np.isfinite(left) & np.isfinite(inside)
    single = np.where(usable.any(axis=0), np.where(usable, inside, 0.0).sum(axis=0), np.nan)
    error: NDArray[np.float64] = np.where(samples >= 2, spread, single)
    return error


def clearly_above_zero(
    mean: ArrayLike, error: ArrayLike, samples: ArrayLike, threshold: float, *, freedom: float | None = None
) -> NDArray[np.bool_]:
    """Test whether means are above 0 as clearly as a normal variable at `threshold` standard errors.

    The spread of few samples is itself uncertain, so the bar comes from Student's t distribution: a threshold of 2
    becomes 13.97 standard errors for two samples, 4.53 for three, 2.32 for ten. A single sample, whose error comes from
    its many items, is treated as normal.

    Args:
        mean: (...).
        error: (...), standard errors; where they are unknown (NaN), any mean above 0 counts.
        samples: (...), number of samples of each mean.
        threshold: in standard errors of a normal variable; at 0 any mean above 0 counts.
        freedom: degrees of freedom of the errors, if they do not come from the spread of samples.

    Returns:
        bool (...); False where the mean is NaN.
    """
    # Imported here, so that reading a study file does not load SciPy.
    from scipy import stats

    count = np.asarray(samples)
    bar = stats.t.isf(stats.norm.sf(threshold), np.maximum(count - 1, 1))
    single = threshold if freedom is None else stats.t.isf(stats.norm.sf(threshold), freedom)
    bar = np.where(count >= 2, bar, single)
    with np.errstate(invalid="ignore"):
        above: NDArray[np.bool_] = np.asarray(mean) > np.maximum(bar * np.nan_to_num(np.asarray(error)), 0)
    return above


Kind = Literal["base", "add", "remove", "subset"]


@dataclass(frozen=True)
class PlannedRun:
    """A training run of an experiment.

    Attributes:
        name: of the run.
        kind: base sample, base sample with a category added or removed, or random subset.
        sample: index of the base sample, or of the subset.
        category: index of the added or removed category; None for the other kinds.
        rows: int64, indices of its training rows in the pool, in order.
        added: (K,), number of rows of each category added to the base sample.
    """

    name: str
    kind: Kind
    sample: int
    category: int | None
    rows: NDArray[np.int64]
    added: Sequence[int]


def interventions(categories: Categories, plan: Interventions) -> list[PlannedRun]:
    """Plan the base samples, and for each of them a run with every category added and, on request, removed.

    Held-out rows are in no run. For each base sample, rows to add are drawn from those it does not contain: as many as
    `plan` says, or all there are. A base sample without rows of a category has no removal.

    Raises:
        ValueError: the pool has fewer rows than a base sample, or no rows of a category remain to be added.
    """
    size = len(categories.names)
    runs = []
    for sample in range(plan.bases):
        random = np.random.default_rng([plan.seed, sample])
        base = _uniform(categories, plan.base_rows, random)
        runs.append(PlannedRun(f"base-{sample}", "base", sample, None, base, [0] * size))
        for index, rows in enumerate(_additions(categories, base, plan.added_rows, random)):
            added = [len(rows) if other == index else 0 for other in range(size)]
            name = f"add-{sample}-{index}"
            runs.append(PlannedRun(name, "add", sample, index, np.concatenate([base, rows]), added))
        for index, category in enumerate(categories.names if plan.removals else []):
            remaining = base[categories.labels[base] != category]
            if 0 < len(remaining) < len(base):
                runs.append(PlannedRun(f"remove-{sample}-{index}", "remove", sample, index, remaining, [0] * size))
    return runs


def subsets(categories: Categories, plan: Regression) -> list[PlannedRun]:
    """Plan runs on a common base sample plus rows of a random subset of the categories.

    Every category is in some run and missing in another: subsets are drawn until that holds.

    Raises:
        ValueError: there are fewer runs than categories plus two, the pool has fewer rows than the base sample, or no
            rows of a category remain to be added.
    """
    size = len(categories.names)
    if plan.runs < size + 2:
        raise ValueError(f"runs is {plan.runs}, too few to tell {size} categories apart; take {size + 2} or more")
    random = np.random.default_rng([plan.seed, 0])
    base = _uniform(categories, plan.base_rows, random)
    pieces = _additions(categories, base, plan.added_rows, random)
    included = _subsets(plan.runs, len(pieces), plan.share, random)
    runs = []
    for index, members in enumerate(included):
        chosen = [piece for piece, member in zip(pieces, members, strict=True) if member]
        added = [len(piece) if member else 0 for piece, member in zip(pieces, members, strict=True)]
        rows = np.concatenate([base, *chosen])
        runs.append(PlannedRun(f"subset-{index}", "subset", index, None, rows, added))
    return runs


def _uniform(categories: Categories, rows: int, random: np.random.Generator) -> NDArray[np.int64]:
    eligible = np.flatnonzero(~categories.held)
    if rows > len(eligible):
        raise ValueError(
            f"base_rows is {rows}, but only {len(eligible)} rows are not held out for evaluation; lower it"
        )
    return np.sort(random.choice(eligible, size=rows, replace=False))


def _additions(
    categories: Categories, base: NDArray[np.int64], rows: int, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Draw rows of each category that are not in the base sample."""
    free = ~categories.held
    free[base] = False
    pieces = []
    for name in categories.names:
        eligible = np.flatnonzero(free & (categories.labels == name))
        if not len(eligible):
            raise ValueError(
                f"a base sample of {len(base)} rows leaves none of category {name} to add; lower base_rows"
            )
        pieces.append(np.sort(random.choice(eligible, size=min(rows, len(eligible)), replace=False)))
    return pieces


def _subsets(runs: int, size: int, probability: float, random: np.random.Generator) -> NDArray[np.bool_]:
    """Draw whether each run has each category, bool (runs, size)."""
    included = np.empty((runs, size), dtype=bool)
    for category in range(size):
        members = np.zeros(runs, dtype=bool)
        while members.all() or not members.any():
            members = random.random(runs) < probability
        included[:, category] = members
    return included


Array = NDArray[np.float64]
Scores = list[Array]
"""Scores of a run: for each category, those of its held-out rows; higher is better."""


def effects_of_additions(
    runs: Sequence[PlannedRun], scores: Sequence[Scores | None], added_rows: int
) -> tuple[Array, Array]:
    """Measure how much rows of one category improve the scores of each category.

    The effect of a category with fewer rows to add is scaled to `added_rows`.

    Args:
        runs: base samples and runs with a category added; other kinds are ignored.
        scores: of each run; None for a failed run.
        added_rows: rows of a full addition.

    Returns:
        Effects (B, K, K), [sample, added, evaluated], mean over the evaluated rows, NaN where a run failed; and their
        standard errors over the evaluated rows, with paired scores before and after.
    """
    bases = {run.sample: values for run, values in zip(runs, scores, strict=True) if run.kind == "base"}
    size = len(runs[0].added)
    effects, errors = (np.full((len(bases), size, size), np.nan) for _ in range(2))
    for run, values in zip(runs, scores, strict=True):
        base = bases[run.sample]
        if run.kind != "add" or values is None or base is None:
            continue
        scale = added_rows / run.added[run.category]  # type: ignore[index]
        for index in range(size):
            change = scale * (values[index] - base[index])
            effects[run.sample, run.category, index] = change.mean()
            errors[run.sample, run.category, index] = _error(change)
    return effects, errors


def effects_of_removals(
    runs: Sequence[PlannedRun], scores: Sequence[Scores | None], size: int
) -> tuple[Array, Array, Array]:
    """Collect scores with and without each category.

    Args:
        runs: base samples and runs with a category removed; other kinds are ignored.
        scores: of each run; None for a failed run.
        size: K, the number of categories.

    Returns:
        Full (B, K), mean scores of the base samples; without (B, K, K), [sample, removed, evaluated], NaN where a run
        failed or the sample had nothing to remove; and the standard errors of their difference, (B, K, K).
    """
    bases = {run.sample: values for run, values in zip(runs, scores, strict=True) if run.kind == "base"}
    full = np.full((len(bases), size), np.nan)
    for sample, values in bases.items():
        if values is not None:
            full[sample] = [category.mean() for category in values]
    without, errors = (np.full((len(bases), size, size), np.nan) for _ in range(2))
    for run, values in zip(runs, scores, strict=True):
        base = bases[run.sample]
        if run.kind != "remove" or values is None or base is None:
            continue
        for index in range(size):
            without[run.sample, run.category, index] = values[index].mean()
            errors[run.sample, run.category, index] = _error(base[index] - values[index])
    return full, without, errors


def subset_scores(runs: Sequence[PlannedRun], scores: Sequence[Scores | None], added_rows: int) -> tuple[Array, Array]:
    """Return what runs on random subsets included, in units of one addition, (R, K), and their mean scores, (R, K).

    Failed runs are skipped.
    """
    done = [(run, values) for run, values in zip(runs, scores, strict=True) if values is not None]
    included = np.array([run.added for run, _ in done], dtype=np.float64) / added_rows
    return included, np.array([[category.mean() for category in values] for _, values in done])


def _error(change: Array) -> float:
    return float(change.std(ddof=1) / np.sqrt(len(change)))
