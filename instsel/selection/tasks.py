"""Columns of an attribution by the task, or subtask, of their validation example."""

from collections.abc import Hashable, Sequence

import numpy as np

from instsel import checks


def members(name: str, labels: Sequence[Hashable] | np.ndarray, columns: int) -> list[np.ndarray]:
    """Return the columns of each task, int64, tasks in sorted order.

    Args:
        name: what the labels are, for error messages.
        labels: (columns,); they must sort.
        columns: of the attribution.

    Raises:
        ValueError: wrong rank or length, a label that is NaN or does not sort.
    """
    unique, positions = checks.labels(name, labels)
    if len(positions) != columns:
        raise ValueError(f"{name} must have one label for each of {columns} columns, got {len(positions)}")
    return [np.flatnonzero(positions == position) for position in range(len(unique))]
