"""LESS: the rows that help some subtask most (arXiv 2402.04333, Section 4.2, as its release computes it)."""

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from instsel import arrays
from instsel.selection.base import Average, InfluenceMethod
from instsel.selection.influence import members
from instsel.selection.method_data import InfluenceData
from instsel.selection.picked import Selection, label_reasons
from instsel.selection.pickers import Picker, RankedPicker


def select(attribution: np.ndarray, budget: int, *, subtasks: Sequence[Hashable] | np.ndarray) -> Selection:
    """Pick the rows with the highest score: mean of the attributions within a subtask, then maximum over subtasks.

    The release averages cosines within a subtask; the paper's text averages the gradients before the cosine. This is
    the release's rule. Subtasks may differ in size.

    Args:
        attribution: (n, m), any real dtype; read once by blocks of rows.
        budget: rows wanted; above n gives all n.
        subtasks: (m,) one label a column; the labels must sort.

    Returns:
        Selection in order of falling score, ties to the lowest row; `driven_by` is the position of the subtask with
        the row's highest mean among the sorted unique labels, ties to the first.

    Raises:
        ValueError: wrong rank or lengths, NaN or infinity, a label that is NaN or does not sort, a negative budget.
    """
    matrix = arrays.attribution_matrix(attribution, finite=False)
    count = arrays.budget(budget, len(matrix))
    groups = members("subtasks", subtasks, matrix.shape[1])
    return Selection(*_ranking(matrix, groups, count))


def pickers(
    attribution: np.ndarray,
    groups: Sequence[np.ndarray],
    count: int,
    *,
    subtasks: Sequence[Hashable] | np.ndarray,
) -> list[Picker]:
    """Return the ranking of each target for a choice by quotas (`instsel.selection.quotas`): LESS target by target.

    Args:
        attribution: (n, m), as for `select`.
        groups: int64 columns of each target.
        count: picks of all targets together, at most n.
        subtasks: as for `select`.

    Raises:
        ValueError: as `select` does.
    """
    matrix = arrays.attribution_matrix(attribution, finite=False)
    by_subtask = members("subtasks", subtasks, matrix.shape[1])
    rankings: list[Picker] = []
    for columns in groups:
        parts = [np.intersect1d(subtask, columns) for subtask in by_subtask]
        served = np.flatnonzero([part.size for part in parts])
        order, scores, winners = _ranking(matrix, [parts[position] for position in served], count)
        rankings.append(RankedPicker(order, scores, served[winners]))
    return rankings


def _ranking(matrix: np.ndarray, groups: Sequence[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the `count` best rows by the largest mean over the columns of a group, that mean, and the group."""
    scores = np.empty(len(matrix))
    winners = np.empty(len(matrix), dtype=np.int64)
    for block, part in arrays.stream_rows(matrix):
        arrays.check_finite(part, block.start)
        values = part.astype(np.float64)
        means = np.stack([values[:, columns].mean(axis=1) for columns in groups], axis=1)
        winners[block] = means.argmax(axis=1)
        scores[block] = means.max(axis=1)
    order = np.argsort(-scores, kind="stable")[:count]
    return order, scores[order], winners[order]


class Less(InfluenceMethod):
    """The best subtask's mean influence."""

    array_function = staticmethod(select)
    array_pickers = staticmethod(pickers)

    method: Literal["less"] = Field(description="mean influence within a subtask, best subtask counts, top rows")
    average: Average = Field(
        "cosines",
        description="what is averaged within a subtask: influences (release) or gradients before them (paper)",
    )

    @property
    def averages(self) -> Average:
        return self.average

    def select(self, data: InfluenceData, budget: int, seed: int) -> Selection:
        return select(data.values, budget, subtasks=data.column_labels("subtask"))

    def pickers(self, data: InfluenceData, groups: Sequence[np.ndarray], count: int) -> list[Picker]:
        return pickers(data.values, groups, count, subtasks=data.column_labels("subtask"))

    def reasons(self, data: InfluenceData, selection: Selection, seed: int) -> list[str]:
        return label_reasons("subtask", data.column_labels("subtask"), selection)
