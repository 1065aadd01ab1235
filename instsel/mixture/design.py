"""Which rows the runs are trained on that tell how categories help or harm each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from instsel.mixture.categories import Categories
from instsel.mixture.settings import Interventions, Regression

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
