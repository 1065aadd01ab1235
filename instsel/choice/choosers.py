"""From a method of the study file to its selector: what it chooses from, and how it says why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from instsel.arrays import row_blocks
from instsel.choice.influence import influence_matrix, kernel_matrix
from instsel.io.matrix import Matrix, stack
from instsel.selection import (
    Selection,
    bids,
    g2is,
    ifd,
    less,
    longest,
    methods,
    perplexity,
    random,
    rds,
    rules,
    smart,
    stratified,
    submodular,
)
from instsel.selection.g2is import core_knowledge
from instsel.selection.methods import Form
from instsel.study.reader import StudyReader


@dataclass(frozen=True)
class Chooser:
    """A method over the rows that it can choose from.

    Attributes:
        ids: the rows.
        pick: from a budget in rows to a Selection of places in `ids`.
        why: from such a Selection to a reason a pick.
        about: what else the choice goes by, JSON values by name.
    """

    ids: Sequence[str]
    pick: Callable[[int], Selection]
    why: Callable[[Selection], list[str]]
    about: Callable[[], dict[str, Any]] = dict


def chooser(method: methods.AnyMethod, seed: int, form: Form, damping: float, reader: StudyReader) -> Chooser:
    """Make a method ready to choose.

    Args:
        method: as the study file has it.
        seed: of a method that draws.
        form: of the influence, for a method that names none itself.
        damping: of fisher, for a method that names none itself.
        reader: the study.

    Raises:
        InputError: the study has no result of the stage that the method reads.
    """
    if isinstance(method, methods.G2isMethod):
        return _walk(method, form, damping, reader)
    if isinstance(method, methods.InfluenceMethod):
        return _by_influence(method, form, damping, reader)
    if isinstance(method, methods.RdsMethod):
        pool, validation = reader.representations(method.targets)
        return Chooser(pool.ids, partial(rds.select, pool.values, validation), _examples(pool.columns))
    if isinstance(method, methods.PerplexityMethod | methods.IfdMethod):
        return _by_likelihood(method, reader)
    if method.requires == "embed":
        return _by_prompt(method, reader)
    return _by_index(method, seed, reader)


def _by_influence(method: methods.InfluenceMethod, form: Form, damping: float, reader: StudyReader) -> Chooser:
    matrix = of_targets(influence_matrix(reader, method.influence(form, damping)), method.targets)
    values, columns = matrix.values, matrix.columns
    if isinstance(method, methods.LessMethod):
        subtasks = np.asarray(columns["subtask"].to_pylist())
        return Chooser(matrix.ids, partial(less.select, values, subtasks=subtasks), _named("subtask", subtasks))
    if isinstance(method, methods.BidsMethod):
        return Chooser(matrix.ids, partial(bids.select, values, normalize=method.normalize), _examples(columns))
    tasks = np.asarray(columns["target"].to_pylist())
    rule = method.method  # type: ignore[attr-defined]
    normalize = method.normalize  # type: ignore[attr-defined]
    pick = partial(rules.select, values, rule=rule, normalize=normalize, tasks=tasks if rule == "task_max" else None)
    why = {"instance_max": _examples(columns), "task_max": _named("target", tasks), "sum": _always("sum of influences")}
    return Chooser(matrix.ids, pick, why[rule])


def _walk(method: methods.G2isMethod, form: Form, damping: float, reader: StudyReader) -> Chooser:
    pool, validation = kernel_matrix(reader, method.influence(form, damping), method.targets)
    pick = partial(
        g2is.select,
        pool.values,
        validation,
        delta=method.delta,
        explained_variance=method.explained_variance,
        sign=method.sign,
        neighbors=method.neighbors,
        fill=method.fill,
    )

    def shares() -> dict[str, Any]:
        found = core_knowledge(validation, explained_variance=method.explained_variance, sign=method.sign)[1]
        return {"component_shares": {str(number + 1): share for number, share in enumerate(found.tolist())}}

    return Chooser(pool.ids, pick, _components, shares)


def _components(selection: Selection) -> list[str]:
    return [f"principal component {number + 1}" for number in _callers(selection)]


def _by_likelihood(method: methods.PerplexityMethod | methods.IfdMethod, reader: StudyReader) -> Chooser:
    table = reader.likelihoods()
    ids, loss = table["id"].to_pylist(), table["loss"].to_numpy()
    if isinstance(method, methods.PerplexityMethod):
        pick = partial(perplexity.select, loss)
        return Chooser(ids, pick, lambda found: [f"base loss {score:.3f}, in the middle" for score in found.scores])
    pick = partial(ifd.select, loss, table["loss_alone"].to_numpy())
    return Chooser(ids, pick, lambda found: [_difficulty(score) for score in found.scores])


def _difficulty(ratio: float) -> str:
    if ratio == ifd.NO_RATIO:
        return "no loss without the instruction to compare with"
    return f"loss with the instruction {ratio:.3f} of that without"


def _by_prompt(method: methods.BaseMethod, reader: StudyReader) -> Chooser:
    matrix = reader.embeddings()
    if isinstance(method, methods.SmartMethod):
        groups = np.asarray(groups_of(reader, method.by, matrix.ids))
        by: dict[str, Any] = {
            "num_tasks": method.num_tasks,
            "lam": method.lam,
            "task_function": method.task_function,
        }
        pick = partial(smart.select, matrix.values, groups, instance_function=method.instance_function, **by)
        gains = partial(smart.task_gains, matrix.values, groups, **by)
        return Chooser(matrix.ids, pick, _named(method.by, groups), lambda: {"task_gains": gains()})
    if isinstance(method, methods.FacilityLocationMethod):
        pick = partial(submodular.facility_location, matrix.values, stochastic=method.stochastic, seed=method.seed)
        return Chooser(matrix.ids, pick, _always("gain in coverage"))
    if isinstance(method, methods.GraphCutMethod):
        pick = partial(submodular.graph_cut, matrix.values, lam=method.lam)
        return Chooser(matrix.ids, pick, _always("gain in likeness to the pool, less likeness to the choice"))
    return Chooser(matrix.ids, partial(submodular.log_det, matrix.values), _always("gain in volume"))


def _by_index(method: methods.BaseMethod, seed: int, reader: StudyReader) -> Chooser:
    ids = reader.index["id"].to_pylist()
    if isinstance(method, methods.LongestMethod):
        pick = partial(longest.select, reader.index["answer_tokens"].to_numpy())
        return Chooser(ids, pick, lambda found: [f"{score:.0f} answer tokens" for score in found.scores])
    if isinstance(method, methods.ProportionalMethod | methods.EqualMethod):
        groups = np.asarray(groups_of(reader, method.by, ids))
        pick = partial(stratified.select, groups, shares=method.method, seed=seed)
        return Chooser(ids, pick, _named(f"uniform draw, seed {seed}, within {method.by}", groups))
    draw = partial(random.select, len(ids), seed=seed)
    return Chooser(ids, draw, _always(f"uniform draw, seed {seed}"))


def of_targets(matrix: Matrix, targets: Sequence[str] | None) -> Matrix:
    """The columns of some targets; the matrix as it is where all are wanted."""
    if targets is None:
        return matrix
    kept = [place for place, name in enumerate(matrix.columns["target"].to_pylist()) if name in targets]
    rows = len(matrix.ids)
    blocks = (
        matrix.values[block][:, kept] for block in row_blocks(rows, matrix.values.shape[1] * matrix.values.itemsize)
    )
    return Matrix(matrix.ids, stack(blocks, rows, len(kept)), matrix.columns.take(pa.array(kept)))


def _callers(selection: Selection) -> np.ndarray:
    return np.empty(0, dtype=np.int64) if selection.driven_by is None else selection.driven_by


def _examples(columns: pa.Table) -> Callable[[Selection], list[str]]:
    names = [f"validation example {row['subtask']}:{row['id']}" for row in columns.to_pylist()]
    return lambda found: [names[caller] for caller in _callers(found)]


def _named(what: str, labels: np.ndarray) -> Callable[[Selection], list[str]]:
    names = [f"{what} {label}" for label in np.unique(labels)]
    return lambda found: [names[caller] for caller in _callers(found)]


def _always(reason: str) -> Callable[[Selection], list[str]]:
    return lambda found: [reason] * len(found)


def groups_of(reader: StudyReader, by: str, ids: Sequence[str]) -> list[str]:
    """The source, the source/task or the category of rows.

    Args:
        reader: the study.
        by: "source", "task" or "category".
        ids: of the rows.

    Raises:
        InputError: categories are asked for, and the study has none.
    """
    if by == "category":
        return [reader.category_of[row] for row in ids]
    index = reader.index
    names = index["source"].to_pylist()
    if by == "task":
        names = [f"{source}/{task or '-'}" for source, task in zip(names, index["task"].to_pylist(), strict=True)]
    found = dict(zip(index["id"].to_pylist(), names, strict=True))
    return [found[row] for row in ids]
