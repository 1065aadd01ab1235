"""The linear program of `mixture` for one selection, and a choice that keeps to the shares it gives."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from instsel.arrays import labels
from instsel.choice.budget import Chooser
from instsel.choice.data import group_labels
from instsel.config.mixture import Mixture
from instsel.errors import InputError
from instsel.mixture.categories import OTHER
from instsel.mixture.program import Solution, counts, solve
from instsel.selection.base import Shares
from instsel.selection.picked import Selection
from instsel.study.reader import StudyReader
from instsel.study.results import CategoryShares, MixtureDuals, MixtureShares

MIXTURE = "mixture.parquet"


@dataclass(frozen=True)
class SelectionMixture:
    """A mixture and the linear program behind it.

    Attributes:
        names: of the categories, "other" last if there is one.
        start: (K,), shares that it started from.
        importance: (K,).
        capacity: (K,), rows of the pool.
        floor: (K,), least shares that were asked for.
        solution: of the measured categories and "other", which is left as it was.
        rows: (K,), rows of each.
    """

    names: Sequence[str]
    start: np.ndarray
    importance: np.ndarray
    capacity: np.ndarray
    floor: np.ndarray
    solution: Solution
    rows: np.ndarray

    def shares(self) -> MixtureShares:
        """Return what a selection's manifest keeps of it."""
        solution, duals = self.solution, self.solution.duals
        columns = {
            "start": self.start,
            "importance": self.importance,
            "worth": solution.worth,
            "weight": solution.weights,
            "rows": self.rows,
            "capacity": self.capacity,
            "floor": self.floor,
        }
        lines = zip(*(np.asarray(values).tolist() for values in columns.values()), strict=True)
        by_category = (CategoryShares(**dict(zip(columns, line, strict=True))) for line in lines)
        lower, upper = (
            dict(zip(self.names, np.asarray(duals[bound]).tolist(), strict=True)) for bound in ("lower", "upper")
        )
        return MixtureShares(
            categories=dict(zip(self.names, by_category, strict=True)),
            objective=solution.objective,
            start_objective=solution.start_objective,
            duals=MixtureDuals(sum=float(duals["sum"]), max_shift=float(duals["max_shift"]), lower=lower, upper=upper),
        )


def mix(
    mixture: Mixture, reader: StudyReader, sizes: Mapping[str, int], start: Mapping[str, int], total: int
) -> SelectionMixture:
    """Solve the linear program for a choice of `total` rows.

    Args:
        mixture: settings.
        reader: the study, with the estimator's gamma.
        sizes: category -> rows that can be chosen.
        start: category -> rows, in the proportion that the mixture starts from.
        total: rows to choose.

    Raises:
        InputError: a category is not there, the constraints contradict each other, or an effect is unknown.
    """
    interaction = reader.interaction(mixture.estimator)
    names: list[str] = list(interaction.categories)
    names += [OTHER] if sizes.get(OTHER) else []
    have = np.array([sizes.get(name, 0) for name in names])
    start_shares = np.array([start.get(name, 0) for name in names], dtype=np.float64)
    start_shares /= start_shares.sum()
    importance = _importance(mixture, reader, names, have)
    gamma, error = (_with_other(matrix, len(names)) for matrix in (interaction.gamma, interaction.error))
    if mixture.effects_in == "nats":
        scale = _effects_on_itself(interaction.self_effect, importance)
        gamma, error = gamma * scale, error * scale
    if mixture.unknown == "zero":
        gamma, error = np.nan_to_num(gamma), np.nan_to_num(error)
    lower, upper = _bounds(mixture, names, have, start_shares, total)
    try:
        solution = solve(
            importance,
            gamma,
            max_shift=mixture.max_shift,
            lower=lower,
            upper=upper,
            start=start_shares,
            error=error,
            caution=mixture.caution,
            names=names,
        )
        rows = counts(solution.weights, total, capacity=have)
    except ValueError as infeasible:
        raise InputError(f"mixture: {infeasible}") from infeasible
    floor = np.array([mixture.floors.get(name, 0.0) for name in names])
    return SelectionMixture(names, start_shares, importance, have, floor, solution, rows)


def mixture_table(mixture: MixtureShares) -> pa.Table:
    """Return the categories of a mixture as a table, one line each, with the duals of their bounds."""
    duals = mixture.duals
    return pa.Table.from_pylist(
        [
            {
                "category": name,
                **shares.model_dump(),
                "lower_dual": duals.lower[name],
                "upper_dual": duals.upper[name],
            }
            for name, shares in mixture.categories.items()
        ]
    )


class ReasonedChooser(Chooser, Protocol):
    """A chooser that says why."""

    def reasons(self, selection: Selection) -> list[str]:
        """Say why each row of a selection was picked."""


class DividedChooser(ReasonedChooser, Protocol):
    """A chooser that can choose within groups of its rows."""

    def divided(self, members: Sequence[np.ndarray]) -> Sequence[ReasonedChooser]:
        """Return a chooser for each group of rows, which are given by their numbers."""


class ConstrainedChooser:
    """A method that keeps to the shares of a mixture: it chooses within each category as if that were the whole pool.

    Attributes:
        solved: The mixture of the last choice.
    """

    def __init__(
        self,
        chooser: DividedChooser,
        shares: Shares,
        mixture: Mixture,
        reader: StudyReader,
    ) -> None:
        """Divide what the method can choose from.

        Args:
            chooser: The method on its rows.
            shares: What the mixture starts from: the pool's shares, or those of what the method would choose.
            mixture: Settings of the linear program.
            reader: The study.
        """
        self._whole, self._shares, self._mixture, self._reader = chooser, shares, mixture, reader
        names, self._codes = labels("categories", group_labels(reader, "category", chooser.ids))
        self._names: list[str] = names.tolist()
        # Row numbers of each category, one after the other.
        self._members = np.split(
            np.argsort(self._codes, kind="stable"), np.cumsum(np.bincount(self._codes, minlength=len(names)))[:-1]
        )
        # Laid out once, whatever the number of choices.
        self._within = dict(zip(self._names, chooser.divided(self._members), strict=True))
        self._reasons: dict[int, str] = {}
        self.solved: SelectionMixture | None = None

    @property
    def ids(self) -> Sequence[str]:
        return self._whole.ids

    def pick(self, rows: int) -> Selection:
        """Choose rows; picks of the categories alternate, so that the first have the shares of the whole.

        Raises:
            InputError: see `mix`.
        """
        sizes = self._sizes(self._codes)
        start = sizes if self._shares == "pool" else self._sizes(self._codes[self._whole.pick(rows).indices])
        solved = self.solved = mix(self._mixture, self._reader, sizes, start, rows)
        self._reasons, picked = {}, []
        for name, count in zip(solved.names, solved.rows.tolist(), strict=True):
            picked += self._picked(name, count) if count else []
        picked.sort()
        indices = np.array([index for *_, index in picked], dtype=np.int64)
        return Selection(indices, np.array([score for _, score, _ in picked], dtype=np.float64))

    def reasons(self, selection: Selection) -> list[str]:
        """Say why each row of the last choice was picked, its category first."""
        return [self._reasons[index] for index in selection.indices.tolist()]

    def details(self, selection: Selection) -> Mapping[str, Mapping[str, float]]:
        """Return nothing: what the method goes by differs from category to category."""
        return {}

    def _sizes(self, codes: np.ndarray) -> dict[str, int]:
        """Return the rows of each category."""
        return dict(zip(self._names, np.bincount(codes, minlength=len(self._names)).tolist(), strict=True))

    def _picked(self, name: str, rows: int) -> list[tuple[float, float, int]]:
        """Return picks of a category: how far into its choice each is, its score, and its index among all rows."""
        chooser = self._within[name]
        chosen = chooser.pick(rows)
        if len(chosen) < rows:
            warnings.warn(f"category {name}: {len(chosen)} of {rows} rows chosen", UserWarning, stacklevel=2)
        indices = self._members[self._names.index(name)][chosen.indices].tolist()
        reasons = zip(indices, chooser.reasons(chosen), strict=True)
        self._reasons |= {index: f"{name}: {reason}" for index, reason in reasons}
        depths = ((rank + 0.5) / len(chosen) for rank in range(len(chosen)))
        return list(zip(depths, chosen.scores.tolist(), indices, strict=True))


def _importance(mixture: Mixture, reader: StudyReader, names: Sequence[str], have: np.ndarray) -> np.ndarray:
    """Return how much each category counts, sums to 1; "other", of which nothing is known, counts nothing."""
    asked = mixture.importance
    measured = np.array([name != OTHER for name in names])
    if isinstance(asked, dict):
        unknown = sorted(set(asked) - set(np.asarray(names)[measured].tolist()))
        if unknown:
            raise InputError(
                f"mixture.importance names {unknown[0]!r}, which is no measured category; they are "
                f"{', '.join(np.asarray(names)[measured].tolist())}"
            )
        shares = np.array([asked.get(name, 0.0) for name in names])
    elif asked == "targets":
        by_target = reader.manifest("categorize")["result"]["validation"].values()
        # Each target counts the same, however many validation rows it has.
        shares = np.array([sum(rows.get(name, 0) / sum(rows.values()) for rows in by_target) for name in names])
    else:
        shares = np.where(measured, have if asked == "proportional" else 1.0, 0.0).astype(np.float64)
    importance: np.ndarray = shares / shares.sum()
    return importance


def _effects_on_itself(effects: Sequence[float | None], importance: np.ndarray) -> np.ndarray:
    """Return what rows of each category do for it, in units of their mean over what counts; "other" has none."""
    scale = np.zeros(len(importance))
    scale[: len(effects)] = np.maximum(np.array(effects, dtype=np.float64), 0)
    mean = float(importance @ scale)
    if not mean > 0:
        raise InputError("mixture.effects_in: no category that importance counts is helped by its own rows; use rows")
    return scale / mean


def _with_other(values: Any, size: int) -> np.ndarray:
    """Return a matrix of the measured categories, with a row of no effects for "other" if it is the last of `size`."""
    matrix = np.array(values, dtype=np.float64)
    wide = np.zeros((size, size))
    wide[: len(matrix), : len(matrix)] = matrix
    return wide


def _bounds(
    mixture: Mixture, names: Sequence[str], have: np.ndarray, start_shares: np.ndarray, total: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return floors as wanted, capacities as the pool has them; "other" stays as it is."""
    unknown = sorted(set(mixture.floors) - (set(names) - {OTHER}))
    if unknown:
        raise InputError(
            f"mixture.floors names {unknown[0]!r}, which is no measured category; they are {', '.join(names)}"
        )
    lower = np.array([mixture.floors.get(name, 0.0) for name in names])
    upper = np.minimum(have / max(total, 1), 1.0)
    if names[-1] == OTHER:
        lower[-1] = upper[-1] = min(start_shares[-1], upper[-1])
    return lower, upper
