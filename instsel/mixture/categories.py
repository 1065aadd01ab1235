"""Which category each row counts to, and which rows of it are kept to evaluate on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from instsel.mixture.settings import OTHER

# Groups of rows whose spread tells the standard errors of gradients.
FOLDS = 8


@dataclass(frozen=True)
class Categories:
    """The pool, divided.

    Attributes:
        names: of the categories that are measured, K of them, sorted.
        labels: (n,), category of each row, or "other".
        held: bool (n,), rows that are only evaluated on.
        folds: int64 (n,), group of each row among those of its category that are held, or that are not.
        gathered: categories that were too small and count to "other", with their rows.
    """

    names: Sequence[str]
    labels: NDArray[np.str_]
    held: NDArray[np.bool_]
    folds: NDArray[np.int64]
    gathered: Mapping[str, int]


def divide(ids: Sequence[str], labels: Sequence[str], *, least: int, held: int) -> Categories:
    """Divide the pool into categories.

    Args:
        ids: of the rows, n of them; hashes, so that the smallest are a uniform sample.
        labels: (n,), what each row was tagged with.
        least: a category with fewer rows counts to "other".
        held: rows of each category to evaluate on: those with the smallest ids.

    Raises:
        ValueError: fewer than two categories have `least` rows, or `held` leaves none of them to train on.
    """
    if held >= least:
        raise ValueError(f"evaluation_rows is {held} and least_rows {least}; keep fewer rows than the least has")
    sizes = Counter(labels)
    names = sorted(name for name, rows in sizes.items() if rows >= least and name != OTHER)
    if len(names) < 2:
        raise ValueError(
            f"{len(names)} of {len(sizes)} categories have {least} rows or more, and a mixture needs two; "
            "lower mixture.least_rows or divide the pool otherwise"
        )
    kept = set(names)
    grouped = np.array([label if label in kept else OTHER for label in labels], dtype=np.str_)
    order = np.argsort(np.asarray(ids), kind="stable")
    apart, folds = np.zeros(len(grouped), dtype=bool), np.zeros(len(grouped), dtype=np.int64)
    for name in names:
        places = order[grouped[order] == name]
        apart[places[:held]] = True
        folds[places[:held]] = np.arange(held) % FOLDS
        folds[places[held:]] = np.arange(len(places) - held) % FOLDS
    gathered = {name: rows for name, rows in sorted(sizes.items()) if name not in kept and name != OTHER}
    return Categories(names, grouped, apart, folds, gathered)
