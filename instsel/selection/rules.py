"""The rules that BIDS is compared with: one score a row, and the rows that score highest (arXiv 2501.12147, Section 5).

With `normalize`, instance_max is the paper's ablation "Normalised".
"""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field

from instsel import arrays
from instsel.selection.base import InfluenceMethod
from instsel.selection.influence import column_moments, members
from instsel.selection.method_data import InfluenceData
from instsel.selection.picked import Selection, label_reasons
from instsel.selection.pickers import Picker, RankedPicker

RULES = ("instance_max", "task_max", "sum")


def select(
    attribution: np.ndarray, budget: int,
    *, rule: str, normalize: bool = False, tasks: Sequence[Hashable] | np.ndarray | None = None,
    task_function: Literal["sum", "mean"] = "sum",
) -> Selection:  # fmt: skip
    """Pick the rows of the highest score.

    instance_max: the largest entry of the row. task_max: the largest sum over the columns of a task, as the paper's
    formula has it; its text says mean. sum: the sum of the row.

    Args:
        attribution: (n, m), any real dtype; read by blocks of rows, once or to be standardised three times, so
            that it may be memory-mapped.
        budget: rows wanted; above n gives all n.
        rule: one of `RULES`.
        normalize: standardise the columns first (population deviation); columns without deviation are dropped with a
            warning. A pool of one row is taken as it is.
        tasks: (m,) one label a column, for task_max alone; the labels must sort. A warning tells when tasks differ in
            size, as sums then favour the larger ones.
        task_function: of task_max; "mean" gives tasks of all sizes the same say.

    Returns:
        Selection in order of falling score, ties to the lowest row. `driven_by` is for instance_max the column of the
        largest entry, for task_max the position of the task among the sorted unique labels, ties to the first; None
        for sum.

    Raises:
        ValueError: wrong rank or lengths, NaN or infinity, a negative budget, another rule or task function,
            task_max without tasks or another rule with them; with normalize no column with a deviation, or for
            task_max a task without one.
    """
    matrix = arrays.attribution_matrix(attribution, finite=False)
    count = arrays.budget(budget, len(matrix))
    scorer = _Scorer.of(matrix, rule, normalize, tasks, task_function)
    return Selection(*scorer.ranking(matrix, np.arange(matrix.shape[1]), count))


def pickers(
    attribution: np.ndarray, groups: Sequence[np.ndarray], count: int,
    *, rule: str, normalize: bool = False, tasks: Sequence[Hashable] | np.ndarray | None = None,
) -> list[Picker]:  # fmt: skip
    """Return the ranking of each target for a choice by quotas (`instsel.selection.quotas`).

    Args:
        attribution: (n, m), as for `select`.
        groups: int64 columns of each target.
        count: picks of all targets together, at most n.
        rule: as for `select`.
        normalize: as for `select`; columns are standardised over all rows.
        tasks: as for `select`; of a target only its columns of a task count.

    Raises:
        ValueError: as `select` does, or with normalize a target has no column with a deviation.
    """
    matrix = arrays.attribution_matrix(attribution, finite=False)
    scorer = _Scorer.of(matrix, rule, normalize, tasks, "sum")
    return [RankedPicker(*scorer.ranking(matrix, columns, count)) for columns in groups]


@dataclass(frozen=True)
class _Scorer:
    """A rule on the columns that it reads."""

    rule: str
    task_function: str
    columns: np.ndarray  # int64, those read
    mean: np.ndarray  # float64 (columns,) or ()
    deviation: np.ndarray  # the same
    tasks: list[np.ndarray]  # columns of each, of task_max

    @classmethod
    def of(
        cls,
        matrix: np.ndarray,
        rule: str,
        normalize: bool,
        tasks: Sequence[Hashable] | np.ndarray | None,
        task_function: str,
    ) -> "_Scorer":
        if rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
        if task_function not in ("sum", "mean"):
            raise ValueError(f"task_function must be 'sum' or 'mean', got {task_function!r}")
        if (tasks is not None) != (rule == "task_max"):
            raise ValueError(f"tasks must be given for task_max and for no other rule, got rule {rule!r} and {tasks!r}")
        groups = [] if tasks is None else members("tasks", tasks, matrix.shape[1])
        if task_function == "sum":
            _warn_of_unequal([len(group) for group in groups])
        columns, mean, deviation = np.arange(matrix.shape[1]), np.zeros(()), np.ones(())
        if normalize and len(matrix) > 1:
            columns, mean, deviation = column_moments(matrix, rule)
            _check_tasks(groups, columns)
        return cls(rule, task_function, columns, mean, deviation, groups)

    def ranking(
        self, matrix: np.ndarray, columns: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return the `count` best rows by some of the columns, their scores, and what drove each."""
        kept = np.isin(self.columns, columns)
        read = self.columns[kept]
        if not read.size:
            raise ValueError(
                f"each target must have a column that varies over the rows, none of {columns.tolist()} does"
            )
        mean, deviation = (values[kept] if values.ndim else values for values in (self.mean, self.deviation))
        positions = [np.flatnonzero(np.isin(read, task)) for task in self.tasks]
        served = np.flatnonzero([task.size for task in positions])
        scores, drivers = np.empty(len(matrix)), np.empty(len(matrix), dtype=np.int64)
        for block, part in arrays.stream_rows(matrix):
            arrays.check_finite(part, block.start)
            values = (part[:, read].astype(np.float64) - mean) / deviation
            candidates = self._candidate_scores(values, [positions[task] for task in served])
            scores[block], drivers[block] = candidates.max(axis=1), candidates.argmax(axis=1)
        order = np.argsort(-scores, kind="stable")[:count]
        if self.rule == "sum":
            return order, scores[order], None
        return order, scores[order], (read if self.rule == "instance_max" else served)[drivers[order]]

    def _candidate_scores(self, values: np.ndarray, tasks: list[np.ndarray]) -> np.ndarray:
        """Return (rows, candidates), of which the largest is the score of a row."""
        if self.rule == "instance_max":
            return values
        if self.rule == "sum":
            return np.asarray(values.sum(axis=1, keepdims=True))
        function = np.sum if self.task_function == "sum" else np.mean
        return np.stack([function(values[:, task], axis=1) for task in tasks], axis=1)


def _check_tasks(tasks: list[np.ndarray], kept: np.ndarray) -> None:
    for task in tasks:
        if not np.isin(kept, task).any():
            raise ValueError(f"every task must have a column that varies over the rows, none of {task.tolist()} does")


def _warn_of_unequal(sizes: list[int]) -> None:
    if len(set(sizes)) > 1:
        message = f"tasks have from {min(sizes)} to {max(sizes)} validation examples: sums favour the larger tasks"
        warnings.warn(message, stacklevel=4)


class _Rule(InfluenceMethod):
    """What the three rules share: the array function's `rule` is the method's name."""

    normalize: bool = Field(False, description="standardise each validation example's column first")

    def select(self, data: InfluenceData, budget: int, seed: int) -> Selection:
        return select(data.values, budget, rule=self.method, normalize=self.normalize)

    def pickers(self, data: InfluenceData, groups: Sequence[np.ndarray], count: int) -> list[Picker]:
        return pickers(data.values, groups, count, rule=self.method, normalize=self.normalize)

    def reasons(self, data: InfluenceData, selection: Selection, seed: int) -> list[str]:
        return data.example_reasons(selection)


class InstanceMax(_Rule):
    """The largest influence on any validation example."""

    array_function = staticmethod(partial(select, rule="instance_max"))
    array_pickers = staticmethod(partial(pickers, rule="instance_max"))

    method: Literal["instance_max"] = Field(description="rows with the highest influence on any one validation example")


class TaskMax(_Rule):
    """The largest influence on any target."""

    array_function = staticmethod(partial(select, rule="task_max"))
    array_pickers = staticmethod(partial(pickers, rule="task_max"))

    method: Literal["task_max"] = Field(description="rows with the highest influence summed over any one target")

    def select(self, data: InfluenceData, budget: int, seed: int) -> Selection:
        tasks = data.column_labels("target")
        return select(data.values, budget, rule=self.method, normalize=self.normalize, tasks=tasks)

    def pickers(self, data: InfluenceData, groups: Sequence[np.ndarray], count: int) -> list[Picker]:
        tasks = data.column_labels("target")
        with warnings.catch_warnings():
            # A target's rows are ranked by its own sums alone.
            warnings.filterwarnings("ignore", "tasks have from", UserWarning)
            return pickers(data.values, groups, count, rule=self.method, normalize=self.normalize, tasks=tasks)

    def reasons(self, data: InfluenceData, selection: Selection, seed: int) -> list[str]:
        return label_reasons("target", data.column_labels("target"), selection)


class Sum(_Rule):
    """The largest influence on all validation examples together."""

    array_function = staticmethod(partial(select, rule="sum"))
    array_pickers = staticmethod(partial(pickers, rule="sum"))

    method: Literal["sum"] = Field(description="rows with the highest influence summed over all validation examples")

    def reasons(self, data: InfluenceData, selection: Selection, seed: int) -> list[str]:
        return ["sum of influences"] * len(selection)
