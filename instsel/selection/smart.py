"""SMART: a submodular function gives every task its share of the budget, another picks the rows (arXiv 2403.08370)."""

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from instsel import arrays
from instsel.arrays import Labels, finite_matrix, row_blocks, unit_or_zero_rows
from instsel.selection import submodular
from instsel.selection.base import GroupedMethod, Method, Requires
from instsel.selection.cost import Shape
from instsel.selection.kernels import check_lam, warn_of_zeros
from instsel.selection.method_data import EmbeddingData
from instsel.selection.picked import Selection, label_reasons
from instsel.selection.submodular import SubmodularFunction, submodular_method

_SPLITTERS = ("release", "largest_remainder")


def select(
    embeddings: np.ndarray, tasks: Labels, budget: int,
    *, num_tasks: int | None = None, lam: float = 0.4, task_function: str = "graph_cut",
    instance_function: str = "facility_location",
) -> Selection:  # fmt: skip
    """Pick tasks greedily, share the budget by their gains (`task_budgets`), and pick rows greedily within each task.

    A task is the mean of its rows' embeddings as they are, not normalised (Section 3); similarity is the cosine, of
    tasks and of rows. The release cannot keep all tasks and asserts one less; here all is the default. It orders the
    rows of every prompt template of a task apart, and cuts pools of more than 150,000 rows in two for graph cut and
    log-det; here a task is one pool, whatever its size. Its final shuffle is left out.

    Args:
        embeddings: (n, d) of the prompts, any real dtype; read in blocks and by task, so that it may be memory-mapped.
        tasks: (n,) one label a row; the labels must sort.
        budget: rows wanted; above n gives all n.
        num_tasks: tasks to keep, at least 1; None keeps all, as does a number above theirs.
        lam: weight of the redundancy wherever graph cut is used; the paper's 0.4.
        task_function: "facility_location", "graph_cut" or "log_det", over the tasks.
        instance_function: one of the same, over the rows of a task.

    Returns:
        Selection with the tasks in greedy order and the rows of a task in pick order. Scores are the gains of the
        rows within their tasks; `driven_by` is the position of the row's task among the sorted unique labels. Ties go
        to the lowest row, and to the first task in sorted order.

    Raises:
        ValueError: wrong rank or lengths, no columns, NaN or infinity, a label that is NaN or does not sort, a
            negative budget, num_tasks below 1, lam negative or not finite, an unknown function, kept tasks that hold
            fewer rows than the budget.
    """
    rows, _, pools, order = _ordered(embeddings, tasks, num_tasks, lam, task_function)
    count = arrays.budget(budget, len(rows))
    choose_rows = _function("instance_function", instance_function, lam)
    sizes = np.array([len(pools[task]) for task in order.indices], dtype=np.int64)
    if sizes.sum() < count:
        raise ValueError(
            f"budget must be at most {sizes.sum()}, the rows of the {len(order)} tasks that are kept, got {budget}"
        )
    shares = task_budgets(order.scores, sizes, count)
    return _join(
        [
            (task, pools[task], choose_rows(unit_or_zero_rows(rows[pools[task]]), share))
            for task, share in zip(order.indices.tolist(), shares.tolist(), strict=True)
            if share
        ]
    )


def task_gains(
    embeddings: np.ndarray, tasks: Labels,
    *, num_tasks: int | None = None, lam: float = 0.4, task_function: str = "graph_cut",
) -> dict[Hashable, float]:  # fmt: skip
    """Return the tasks that `select` keeps, in greedy order, and the gain by which each has its share of the budget.

    Arguments and errors are those of `select`.
    """
    _, names, _, order = _ordered(embeddings, tasks, num_tasks, lam, task_function)
    return dict(zip(names[order.indices].tolist(), order.scores.tolist(), strict=True))


def task_budgets(
    gains: np.ndarray | Sequence[float], sizes: np.ndarray | Sequence[int], budget: int, *, splitter: str = "release"
) -> np.ndarray:
    """Share a budget out among tasks in proportion to 1 + g + g^2/2 of their gains g (Section 3, Taylor softmax).

    The paper gives real shares. As the release has it, they are rounded down, what is left goes one each to the first
    tasks in greedy order, a task keeps at most its size, and what is over goes round in greedy order, one each, to
    tasks that have room. Shares are computed exactly, so that rounding down is the same everywhere.

    Args:
        gains: (M,) in greedy order.
        sizes: (M,) rows of these tasks.
        budget: rows wanted.
        splitter: "largest_remainder" gives what rounding down leaves to the largest remainders, ties to the first.

    Returns:
        int64 (M,), sums to `budget`.

    Raises:
        ValueError: wrong rank or lengths, a gain that is not finite, a size or budget that is negative or not whole,
            sizes that sum to less than the budget, another splitter.
    """
    if splitter not in _SPLITTERS:
        raise ValueError(f"splitter must be one of {', '.join(_SPLITTERS)}, got {splitter!r}")
    values, room, total = _checked_shares(gains, sizes, budget)
    if total == 0:
        return np.zeros(len(values), dtype=np.int64)
    weights = [1 + gain + gain * gain / 2 for gain in map(Fraction, values.tolist())]
    unit = Fraction(total) / sum(weights)
    shares = [weight * unit for weight in weights]
    whole = np.array([int(share) for share in shares], dtype=np.int64)
    first = list(range(len(shares)))
    if splitter == "largest_remainder":
        first.sort(key=lambda task: shares[task] - int(shares[task]), reverse=True)
    whole[first[: total - int(whole.sum())]] += 1
    return _within(whole, room)


def _ordered(
    embeddings: np.ndarray,
    tasks: Labels,
    num_tasks: int | None,
    lam: float,
    task_function: str,
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], Selection]:
    """Return the checked embeddings, the tasks' names, the rows of each, and which tasks are kept with their gains."""
    rows = finite_matrix("embeddings", embeddings)
    names, members = arrays.labels("tasks", tasks)
    if len(members) != len(rows):
        raise ValueError(f"tasks must have one label for each of {len(rows)} rows, got {len(members)}")
    kept = len(names) if num_tasks is None else min(len(names), arrays.whole_number("num_tasks", num_tasks, least=1))
    check_lam(lam)
    choose_tasks = _function("task_function", task_function, lam)
    _warn_of_zero_rows(rows)
    pools = np.split(np.argsort(members, kind="stable"), np.cumsum(np.bincount(members, minlength=len(names)))[:-1])
    return rows, names, pools, choose_tasks(_task_units(rows, names, pools), kept)


def _checked_shares(
    gains: np.ndarray | Sequence[float], sizes: np.ndarray | Sequence[int], budget: int
) -> tuple[np.ndarray, np.ndarray, int]:
    values, room = np.asarray(gains), np.asarray(sizes)
    if values.ndim != 1 or values.shape != room.shape:
        raise ValueError(f"gains and sizes must have rank 1 and one length, got {values.shape} and {room.shape}")
    if values.size and (values.dtype.kind not in "fiu" or not np.isfinite(values).all()):
        raise ValueError(f"gains must be finite numbers, got {values.tolist()}")
    if room.size and (room.dtype.kind not in "iu" or room.min() < 0):
        raise ValueError(f"sizes must be whole numbers from 0, got {room.tolist()}")
    room = room.astype(np.int64)
    total = arrays.whole_number("budget", budget)
    if room.sum() < total:
        raise ValueError(f"budget must be at most {room.sum()}, what the sizes sum to, got {total}")
    if values.size and values.min() < -1:
        low = values.min()
        warnings.warn(f"a gain of {low:.4g} is below -1, where a lower gain gives a larger budget", stacklevel=3)
    return values.astype(np.float64), room, total


def _within(budgets: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Cut budgets to the sizes and hand what is over round, in rounds of one each."""
    cut = np.minimum(budgets, sizes)
    over = int(budgets.sum() - cut.sum())
    while over:
        able = np.flatnonzero(cut < sizes)
        rounds = min(int((sizes - cut)[able].min()), over // able.size)
        given = able if rounds else able[:over]
        cut[given] += max(rounds, 1)
        over -= given.size * max(rounds, 1)
    return np.asarray(cut)


def _function(argument: str, name: str, lam: float) -> Callable[[np.ndarray, int], Selection]:
    """Return the walk over unit rows of this name."""
    known: dict[str, Callable[[np.ndarray, int], Selection]] = {
        "facility_location": submodular.facility_location_of_units,
        "graph_cut": partial(submodular.graph_cut_of_units, lam=lam),
        "log_det": submodular.log_det_of_units,
    }
    if name not in known:
        raise ValueError(f"{argument} must be one of {', '.join(known)}, got {name!r}")
    return known[name]


def _warn_of_zero_rows(rows: np.ndarray) -> None:
    blocks = row_blocks(len(rows), rows.shape[1] * rows.itemsize)
    zeros = [np.flatnonzero(~rows[block].any(axis=1)) + block.start for block in blocks]
    warn_of_zeros("rows of embeddings", np.concatenate([np.empty(0, np.int64), *zeros]), frames=3)


def _task_units(rows: np.ndarray, names: np.ndarray, pools: Sequence[np.ndarray]) -> np.ndarray:
    """Return float64 (tasks, d), the unit vectors of the tasks' means."""
    means = np.zeros((len(names), rows.shape[1]))
    for task, pool in enumerate(pools[: len(names)]):
        means[task] = rows[pool].astype(np.float64).mean(axis=0)
    units = unit_or_zero_rows(means)
    warn_of_zeros("means of tasks", names[~units.any(axis=1)], frames=3)
    return units


def _join(parts: Sequence[tuple[int, np.ndarray, Selection]]) -> Selection:
    """Put the picks of the tasks (task, its rows, picks among them) one after the other."""
    if not parts:
        return Selection(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
    return Selection(
        np.concatenate([pool[picks.indices] for _, pool, picks in parts]),
        np.concatenate([picks.scores for _, _, picks in parts]),
        np.concatenate([np.full(len(picks), task) for task, _, picks in parts]),
    )


class Smart(GroupedMethod):
    """Budgets of tasks, then rows within a task."""

    requires: ClassVar[Requires] = "embeddings"
    is_prefix_stable = False
    array_function = staticmethod(select)

    method: Literal["smart"] = Field(description="budgets of tasks by one submodular function, rows by another")
    num_tasks: int | None = Field(None, ge=1, description="how many of the tasks are kept; default all")
    lam: float = Field(0.4, ge=0, description="weight of graph cut's redundancy")
    task_function: SubmodularFunction = Field("graph_cut", description="function that gives tasks their budgets")
    instance_function: SubmodularFunction = Field("facility_location", description="function that picks a task's rows")

    def select(self, data: EmbeddingData, budget: int, seed: int) -> Selection:
        return select(
            data.values,
            data.groups(self.by),
            budget,
            num_tasks=self.num_tasks,
            lam=self.lam,
            task_function=self.task_function,
            instance_function=self.instance_function,
        )

    def reasons(self, data: EmbeddingData, selection: Selection, seed: int) -> list[str]:
        return label_reasons(self.by, data.groups(self.by), selection)

    def details(self, data: EmbeddingData) -> Mapping[str, Mapping[str, float]]:
        """Return `task_gains`: task, in greedy order, to its gain."""
        gains = task_gains(
            data.values,
            data.groups(self.by),
            num_tasks=self.num_tasks,
            lam=self.lam,
            task_function=self.task_function,
        )
        return {"task_gains": {str(task): gain for task, gain in gains.items()}}

    def pool_sizes(self, shape: Shape) -> list[int]:
        return [round(rows) for rows in shape.groups[self.by]]

    def work(self, shape: Shape) -> float:
        share = shape.chosen / shape.rows
        return sum(
            self.timed_as().work(replace(shape, rows=rows, chosen=share * rows)) for rows in self.pool_sizes(shape)
        )

    def working_memory(self, shape: Shape) -> int:
        return self.timed_as().working_memory(replace(shape, rows=max(self.pool_sizes(shape))))

    def timed_as(self) -> Method:
        return submodular_method(self.instance_function, self.lam)
