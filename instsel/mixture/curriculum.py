"""The order in which rows are trained on: the paper's three passes, levels in order, and controls."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Order = Literal["shuffled", "three_pass", "sorted", "reversed"]
PASSES = 3
LARGE = 50_000


def most_held_back(rows: int) -> int:
    """Rows that the release moves between the first and the last pass: a tenth, of 50,000 or more a twentieth."""
    return rows // (10 if rows < LARGE else 20)


def schedule(
    levels: ArrayLike, *, seed: int, held_back: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Order three passes so that early ones lean to preliminary rows and late ones to subsequent rows.

    The schedule of Beyond IID's release: pass 1 has the first q preliminary rows twice and leaves out the last q
    subsequent ones, pass 2 has every row once, pass 3 leaves out those q preliminary rows and has those q subsequent
    ones twice; each is shuffled. Every row occurs three times over all. Which rows are the q is drawn here; the release
    takes them as they stand in its file.

    Args:
        levels: (N,), level of each row: 0 preliminary, 1 intermediate, 2 subsequent.
        seed: of the shuffles.
        held_back: q; default a tenth of the rows, of 50,000 or more a twentieth, rounded down.

    Returns:
        Three int64 arrays (N,) of places in `levels`.

    Raises:
        ValueError: a level is none of these, or fewer than q rows are preliminary or subsequent, with which passes
            would differ in length.
    """
    found = np.asarray(levels)
    if found.ndim != 1 or not np.isin(found, (0, 1, 2)).all():
        raise ValueError(f"levels have shape {found.shape}; expected (N,) of 0, 1 or 2")
    rows = len(found)
    held = most_held_back(rows) if held_back is None else held_back
    random = np.random.default_rng(seed)
    early, late = (random.permutation(np.flatnonzero(found == level)) for level in (0, 2))
    if held < 0 or held > min(len(early), len(late)):
        raise ValueError(
            f"held_back is {held}, but {len(early)} rows are preliminary and {len(late)} subsequent; lower it, "
            "or choose the order `sorted`"
        )
    middle = np.flatnonzero(found == 1)
    first = np.concatenate([early, early[:held], middle, late[: len(late) - held]])
    last = np.concatenate([early[held:], middle, late, late[len(late) - held :]])
    return random.permutation(first), random.permutation(rows), random.permutation(last)


def passes(
    levels: ArrayLike, order: Order, epochs: int, *, seed: int, held_back: int | None = None
) -> list[NDArray[np.int64]]:
    """Order the rows of every pass of a training.

    Args:
        levels: (N,), level of each row.
        order: "three_pass" is `schedule`; "sorted" has the levels in order within each pass, rows of a level shuffled;
            "reversed" has them the other way round; "shuffled" does not look at them.
        epochs: passes.
        seed: of the shuffles.
        held_back: of `schedule`.

    Returns:
        int64 arrays (N,) of places in `levels`, one a pass.

    Raises:
        ValueError: the order has another name, three passes are not three, or see `schedule`.
    """
    found = np.asarray(levels)
    if order == "three_pass":
        if epochs != PASSES:
            raise ValueError(f"three_pass takes {PASSES} epochs, not {epochs}")
        return list(schedule(found, seed=seed, held_back=held_back))
    if order not in ("shuffled", "sorted", "reversed"):
        raise ValueError(f"order is {order!r}; choose three_pass, sorted, reversed or shuffled")
    made = []
    for epoch in range(1, epochs + 1):
        shuffled = np.random.default_rng([seed, epoch]).permutation(len(found)).astype(np.int64)
        key = {"shuffled": np.zeros(len(found)), "sorted": found, "reversed": -found}[order]
        made.append(shuffled[np.argsort(key[shuffled], kind="stable")])
    return made
