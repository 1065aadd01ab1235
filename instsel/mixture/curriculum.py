"""Training order of rows by level: the three passes of Beyond IID, sorted levels, and controls."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Order = Literal["shuffled", "three_pass", "sorted", "reversed"]
PASSES = 3
LARGE = 50_000


def most_held_back(rows: int) -> int:
    """Return how many rows the release moves between first and last pass: 1/10, of 50,000 rows or more 1/20."""
    return rows // (10 if rows < LARGE else 20)


def schedule(
    levels: ArrayLike, *, seed: int, held_back: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Order three passes so that the first favours preliminary rows and the last subsequent rows.

    The schedule of Beyond IID's release: pass 1 has the first q preliminary rows twice and omits the last q subsequent
    ones, pass 2 has every row once, pass 3 omits those q preliminary rows and has those q subsequent ones twice; each
    is shuffled. Every row occurs three times in all. The q rows are drawn at random here; the release takes them in the
    order of its file.

    Args:
        levels: (N,), level of each row: 0 preliminary, 1 intermediate, 2 subsequent.
        seed: of the shuffles.
        held_back: q; default a tenth of the rows, of 50,000 or more a twentieth, rounded down.

    Returns:
        Three int64 arrays (N,) of row indices.

    Raises:
        ValueError: another level, or fewer than q preliminary or subsequent rows, so that passes would differ in
            length.
    """
    level_of = np.asarray(levels)
    if level_of.ndim != 1 or not np.isin(level_of, (0, 1, 2)).all():
        raise ValueError(f"levels have shape {level_of.shape}; expected (N,) of 0, 1 or 2")
    rows = len(level_of)
    held = most_held_back(rows) if held_back is None else held_back
    random = np.random.default_rng(seed)
    early, late = (random.permutation(np.flatnonzero(level_of == level)) for level in (0, 2))
    if held < 0 or held > min(len(early), len(late)):
        raise ValueError(
            f"held_back is {held}, but {len(early)} rows are preliminary and {len(late)} subsequent; lower it, "
            "or choose the order `sorted`"
        )
    middle = np.flatnonzero(level_of == 1)
    first = np.concatenate([early, early[:held], middle, late[: len(late) - held]])
    last = np.concatenate([early[held:], middle, late, late[len(late) - held :]])
    return random.permutation(first), random.permutation(rows), random.permutation(last)


def passes(
    levels: ArrayLike, order: Order, epochs: int, *, seed: int, held_back: int | None = None
) -> list[NDArray[np.int64]]:
    """Order the rows of every pass of a training.

    Args:
        levels: (N,), level of each row.
        order: "three_pass" is `schedule`; "sorted" sorts each pass by level, shuffled within a level; "reversed" sorts
            it by descending level; "shuffled" ignores levels.
        epochs: number of passes.
        seed: of the shuffles.
        held_back: of `schedule`.

    Returns:
        An int64 array (N,) of row indices for each pass.

    Raises:
        ValueError: another order, "three_pass" with other than three epochs, or as `schedule`.
    """
    level_of = np.asarray(levels)
    if order == "three_pass":
        if epochs != PASSES:
            raise ValueError(f"three_pass takes {PASSES} epochs, not {epochs}")
        return list(schedule(level_of, seed=seed, held_back=held_back))
    if order not in ("shuffled", "sorted", "reversed"):
        raise ValueError(f"order is {order!r}; choose three_pass, sorted, reversed or shuffled")
    orders = []
    for epoch in range(1, epochs + 1):
        shuffled = np.random.default_rng([seed, epoch]).permutation(len(level_of)).astype(np.int64)
        key = {"shuffled": np.zeros(len(level_of)), "sorted": level_of, "reversed": -level_of}[order]
        orders.append(shuffled[np.argsort(key[shuffled], kind="stable")])
    return orders
