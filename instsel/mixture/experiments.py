"""Training runs that tell how categories help or harm each other: which rows they have, and what their scores say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from instsel.mixture.categories import Categories
from instsel.strict import StrictModel


class Interventions(StrictModel):
    bases: int = Field(3, ge=1, description="base samples; two or more tell standard errors of training")
    base_rows: int = Field(200, ge=1, description="rows of a base sample, drawn uniformly")
    added_rows: int = Field(100, ge=1, description="rows of a category that are added to a base sample")
    removals: bool = Field(True, description="also train on each base sample without each category, for dependencies")
    seed: int = Field(0, ge=0, description="seed of the samples")


class Regression(StrictModel):
    runs: int = Field(16, ge=3, description="runs, each trained on a random subset of the categories")
    share: float = Field(0.5, ge=0.1, le=0.9, description="chance of a category to be in a run")
    base_rows: int = Field(100, ge=1, description="rows that every run has, drawn uniformly")
    added_rows: int = Field(50, ge=1, description="rows of each category in the subset")
    ridge: float = Field(0.01, ge=0, description="penalty, in units of the design's mean square")
    seed: int = Field(0, ge=0, description="seed of the subsets")


def standard_error(rest: ArrayLike, within: ArrayLike) -> NDArray[np.float64]:
    """Standard error of means over samples.

    Args:
        rest: (B, ...), what is left of each sample when the mean is taken away; NaN where there is no sample.
        within: (B, ...), standard error of each sample by itself; NaN where it is not known.

    Returns:
        (...), by the spread of the samples where there are two or more, else by that within the one; NaN without
            either.
    """
    left, inside = np.asarray(rest, dtype=np.float64), np.asarray(within, dtype=np.float64)
    samples = np.isfinite(left).sum(axis=0)
    spread = np.sqrt(np.nansum(left**2, axis=0) / np.maximum(samples - 1, 1) / np.maximum(samples, 1))
    usable = np.isfinite(left) & np.isfinite(inside)
    single = np.where(usable.any(axis=0), np.where(usable, inside, 0.0).sum(axis=0), np.nan)
    found: NDArray[np.float64] = np.where(samples >= 2, spread, single)
    return found


def clearly_above_zero(
    mean: ArrayLike, error: ArrayLike, samples: ArrayLike, threshold: float, *, freedom: float | None = None
) -> NDArray[np.bool_]:
    """Whether means are above 0 by as much as a normal variable would be at `threshold` standard errors.

    The spread of a few samples is itself unsure, so Student's distribution sets the bar: two standard errors are 13.97
    of those of two samples, 4.53 of three, 2.32 of ten. A single sample, whose error is of its many items, is taken as
    normal.

    Args:
        mean: (...).
        error: (...), standard errors; NaN where there is nothing to tell them by, with which any mean above 0 counts.
        samples: (...), samples behind each mean.
        threshold: in standard errors of a normal variable; at 0 any mean above 0 counts.
        freedom: degrees of freedom of the errors, where they are not those of the samples' spread.

    Returns:
        bool (...); False where the mean is NaN.
    """
    # Here, so that reading a study file does not load it.
    from scipy import stats

    number = np.asarray(samples)
    bar = stats.t.isf(stats.norm.sf(threshold), np.maximum(number - 1, 1))
    alone = threshold if freedom is None else stats.t.isf(stats.norm.sf(threshold), freedom)
    bar = np.where(number >= 2, bar, alone)
    with np.errstate(invalid="ignore"):
        above: NDArray[np.bool_] = np.asarray(mean) > np.maximum(bar * np.nan_to_num(np.asarray(error)), 0)
    return above


Kind = Literal["base", "add", "remove", "subset"]


@dataclass(frozen=True)
class PlannedRun:
    """One training.

    Attributes:
        name: of the run.
        kind: a base sample, one with rows of a category added, one without a category, or a random subset.
        sample: number of the base sample, or of the subset.
        category: number of the category that is added or removed; None for the others.
        rows: int64, places of its training rows in the pool, in order.
        added: (K,), rows of each category that were added to the base sample.
    """

    name: str
    kind: Kind
    sample: int
    category: int | None
    rows: NDArray[np.int64]
    added: Sequence[int]


def interventions(categories: Categories, plan: Interventions) -> list[PlannedRun]:
    """Plan base samples, and each of them with every category added and, if wanted, removed.

    Rows that are evaluated on are in no run. The rows that are added are drawn anew for each base sample, from those it
    does not hold: as many as `plan` says, or all there are. A base sample without rows of a category has no removal.

    Raises:
        ValueError: the pool has fewer rows than a base sample, or no rows of a category are left to add.
    """
    size = len(categories.names)
    runs = []
    for sample in range(plan.bases):
        random = np.random.default_rng([plan.seed, sample])
        base = _uniform(categories, plan.base_rows, random)
        runs.append(PlannedRun(f"base-{sample}", "base", sample, None, base, [0] * size))
        for number, rows in enumerate(_additions(categories, base, plan.added_rows, random)):
            added = [len(rows) if place == number else 0 for place in range(size)]
            name = f"add-{sample}-{number}"
            runs.append(PlannedRun(name, "add", sample, number, np.concatenate([base, rows]), added))
        for number, category in enumerate(categories.names if plan.removals else []):
            left = base[categories.labels[base] != category]
            if 0 < len(left) < len(base):
                runs.append(PlannedRun(f"remove-{sample}-{number}", "remove", sample, number, left, [0] * size))
    return runs


def subsets(categories: Categories, plan: Regression) -> list[PlannedRun]:
    """Plan runs on a common base sample and rows of a random subset of the categories.

    Every category is in some run and missing in another: its members are drawn again until that holds.

    Raises:
        ValueError: there are fewer than two runs more than categories, the pool has fewer rows than the base sample, or
            no rows of a category are left to add.
    """
    size = len(categories.names)
    if plan.runs < size + 2:
        raise ValueError(f"runs is {plan.runs}, too few to tell {size} categories apart; take {size + 2} or more")
    random = np.random.default_rng([plan.seed, 0])
    base = _uniform(categories, plan.base_rows, random)
    pieces = _additions(categories, base, plan.added_rows, random)
    included = _subsets(plan.runs, len(pieces), plan.share, random)
    runs = []
    for number, members in enumerate(included):
        chosen = [piece for piece, member in zip(pieces, members, strict=True) if member]
        added = [len(piece) if member else 0 for piece, member in zip(pieces, members, strict=True)]
        rows = np.concatenate([base, *chosen])
        runs.append(PlannedRun(f"subset-{number}", "subset", number, None, rows, added))
    return runs


def _uniform(categories: Categories, rows: int, random: np.random.Generator) -> NDArray[np.int64]:
    eligible = np.flatnonzero(~categories.held)
    if rows > len(eligible):
        raise ValueError(f"base_rows is {rows}, but only {len(eligible)} rows are not kept to evaluate on; lower it")
    return np.sort(random.choice(eligible, size=rows, replace=False))


def _additions(
    categories: Categories, base: NDArray[np.int64], rows: int, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Rows of each category that the base sample does not hold."""
    free = ~categories.held
    free[base] = False
    pieces = []
    for name in categories.names:
        places = np.flatnonzero(free & (categories.labels == name))
        if not len(places):
            raise ValueError(
                f"a base sample of {len(base)} rows leaves none of category {name} to add; lower base_rows"
            )
        pieces.append(np.sort(random.choice(places, size=min(rows, len(places)), replace=False)))
    return pieces


def _subsets(runs: int, size: int, share: float, random: np.random.Generator) -> NDArray[np.bool_]:
    """Whether a run has a category, bool (runs, size)."""
    found = np.empty((runs, size), dtype=bool)
    for category in range(size):
        inside = np.zeros(runs, dtype=bool)
        while inside.all() or not inside.any():
            inside = random.random(runs) < share
        found[:, category] = inside
    return found


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
