"""LESS: the rows that help some subtask most (arXiv 2402.04333, Section 4.2, as its release computes it)."""

from collections.abc import Hashable, Sequence

import numpy as np

from instsel import arrays
from instsel.arrays import row_blocks
from instsel.selection.base import Selection
from instsel.selection.influence import members


def select(attribution: np.ndarray, budget: int, *, subtasks: Sequence[Hashable] | np.ndarray) -> Selection:
    """Pick the rows with the highest score: mean of the attributions within a subtask, then maximum over subtasks.

    The release averages cosines within a subtask; the paper's text averages the gradients before the cosine. This is
    the release's rule. Subtasks may differ in size.

    Args:
        attribution: (n, m), any real dtype; read in blocks.
        budget: rows wanted; above n gives all n.
        subtasks: (m,) one label a column; the labels must sort.

    Returns:
        Selection in order of falling score, ties to the lowest row; `driven_by` is the position of the subtask with
        the row's highest mean among the sorted unique labels, ties to the first.

    Raises:
        ValueError: wrong rank or lengths, NaN or infinity, a label that is NaN or does not sort, a negative budget.
    """
    matrix = arrays.attribution_matrix(attribution)
    count = arrays.budget(budget, len(matrix))
    groups = members("subtasks", subtasks, matrix.shape[1])
    scores = np.empty(len(matrix))
    winners = np.empty(len(matrix), dtype=np.int64)
    for block in row_blocks(len(matrix), matrix.shape[1] * np.dtype(np.float64).itemsize):
        values = matrix[block].astype(np.float64)
        means = np.stack([values[:, columns].mean(axis=1) for columns in groups], axis=1)
        winners[block] = means.argmax(axis=1)
        scores[block] = means.max(axis=1)
    order = np.argsort(-scores, kind="stable")[:count]
    return Selection(order, scores[order], winners[order])
