"""Form and content of gains in held-out loss, from what stage *evaluate* left of each run."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from instsel.errors import StudyError
from instsel.evaluation import form_and_content
from instsel.io.store import Folder
from instsel.study.runs import BASE

ANSWERS = "answers"
"""Folder, below that of a run, of TARGET.parquet: id (ITEM-NUMBER, 0 the right answer) and loss of each answer."""


class Gains(NamedTuple):
    """Held-out rows of a target that have other answers, and form and content of a run's gain, float64 (n,), nats."""

    items: list[str]
    form: NDArray[np.float64]
    content: NDArray[np.float64]


def read_gains(evaluate: Folder, run: str, target: str) -> Gains | None:
    """Read the losses of a target's answers under the base model and a run, and split the gain.

    Args:
        evaluate: folder of the stage.
        run: name of the run.
        target: name of the target.

    Returns:
        The gains; None where the answers were not evaluated, or no row of the target has another one.

    Raises:
        StudyError: the two were evaluated on different answers.
    """
    folders = [evaluate / name / ANSWERS for name in (BASE, run)]
    if not all(folder.exists(f"{target}.parquet") for folder in folders):
        return None
    before, after = (folder.read_table(f"{target}.parquet") for folder in folders)
    if before["id"].to_pylist() != after["id"].to_pylist():
        raise StudyError(f"{folders[1]}/{target}.parquet has other answers than that of {BASE}; run the study again")
    items, positions, numbers = _answers(before)
    if not items:
        return None
    form, content = form_and_content(*(_by_item(table, positions, numbers) for table in (before, after)))
    return Gains(items, form, content)


def _answers(table: pa.Table) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Return the items in order, and of each line the position of its item and the number of its answer there."""
    lines = [name.rpartition("-") for name in table["id"].to_pylist()]
    order = {item: position for position, item in enumerate(dict.fromkeys(item for item, _, _ in lines))}
    positions = np.array([order[item] for item, _, _ in lines], dtype=np.int64)
    return list(order), positions, np.array([int(number) for _, _, number in lines], dtype=np.int64)


def _by_item(
    table: pa.Table, positions: NDArray[np.int64], numbers: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lay out log-probabilities: of the right answers (n,), and of the others (n, K), NaN where an item has fewer."""
    grid = np.full((positions.max() + 1, numbers.max() + 1), np.nan)
    grid[positions, numbers] = -table["loss"].to_numpy()
    return grid[:, 0], grid[:, 1:]
