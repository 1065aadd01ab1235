"""The programme of `mixture` for one selection, and a choice that keeps to the shares it gives."""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from instsel.choice.choosers import Chooser
from instsel.config.mixture import Mixture
from instsel.errors import InputError
from instsel.mixture.categories import OTHER
from instsel.mixture.program import Solution, counts, solve
from instsel.selection import Selection
from instsel.selection.methods import Shares
from instsel.study.reader import StudyReader

MIXTURE = "mixture.parquet"


@dataclass(frozen=True)
class SelectionMixture:
    """A mixture and the programme behind it.

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

    def told(self) -> dict[str, Any]:
        """As JSON values, for the selection's manifest."""
        duals = {
            name: value if isinstance(value, float) else dict(zip(self.names, np.asarray(value).tolist(), strict=True))
            for name, value in self.solution.duals.items()
        }
        by_category = {
            "start": self.start,
            "importance": self.importance,
            "worth": self.solution.worth,
            "weight": self.solution.weights,
            "rows": self.rows,
            "capacity": self.capacity,
            "floor": self.floor,
        }
        return {
            "categories": {
                name: {key: np.asarray(values)[place].item() for key, values in by_category.items()}
                for place, name in enumerate(self.names)
            },
            "objective": self.solution.objective,
            "start_objective": self.solution.start_objective,
            "duals": duals,
        }


def mix(
    mixture: Mixture, reader: StudyReader, labels: Sequence[str], start: Mapping[str, int], total: int
) -> SelectionMixture:
    """Solve the programme for a choice of `total` rows.

    Args:
        mixture: settings.
        reader: the study, with the estimator's gamma.
        labels: category of every row that can be chosen.
        start: category -> rows, in the proportion that the mixture starts from.
        total: rows to choose.

    Raises:
        InputError: a category is not there, the constraints contradict each other, or an effect is unknown.
    """
    told = reader.interaction(mixture.estimator)
    names: list[str] = list(told["categories"])
    sizes = Counter(labels)
    names += [OTHER] if sizes[OTHER] else []
    have = np.array([sizes[name] for name in names])
    start_shares = np.array([start.get(name, 0) for name in names], dtype=np.float64)
    start_shares /= start_shares.sum()
    importance = _importance(mixture, reader, names, have)
    gamma, error = (_with_other(told[key], len(names)) for key in ("gamma", "error"))
    if mixture.effects_in == "nats":
        scale = _own_effects(told["own"], importance)
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
    except ValueError as error_found:
        raise InputError(f"mixture: {error_found}") from error_found
    floor = np.array([mixture.floors.get(name, 0.0) for name in names])
    return SelectionMixture(names, start_shares, importance, have, floor, solution, rows)


def mixture_table(told: Mapping[str, Any]) -> pa.Table:
    """A line a category of what `SelectionMixture.told` says."""
    lines = [{"category": name, **values} for name, values in told["categories"].items()]
    duals = told["duals"]
    bounds = [
        {"lower_dual": duals["lower"][line["category"]], "upper_dual": duals["upper"][line["category"]]}
        for line in lines
    ]
    return pa.Table.from_pylist([{**line, **bound} for line, bound in zip(lines, bounds, strict=True)])


class MixedChoice:
    """A method that keeps to the shares of a mixture: it chooses within each category as if that were the whole pool.

    Attributes:
        mix: the mixture of the last choice.
    """

    def __init__(
        self, chooser_of: Callable[[StudyReader], Chooser], shares: Shares, mixture: Mixture, reader: StudyReader
    ) -> None:
        """Get ready to choose.

        Args:
            chooser_of: makes the method's chooser of a study.
            shares: what the mixture starts from: the pool's, or those of what the method would choose.
            mixture: settings of the programme.
            reader: the study.
        """
        self.chooser_of, self.shares, self.mixture, self.reader = chooser_of, shares, mixture, reader
        self.whole = chooser_of(reader)
        self.places = {row: place for place, row in enumerate(self.whole.ids)}
        self.labels = [reader.category_of[row] for row in self.whole.ids]
        self.mix: SelectionMixture | None = None
        self._reasons: dict[int, str] = {}

    @property
    def chooser(self) -> Chooser:
        """This choice as a chooser of the rows that the method can choose."""
        return Chooser(
            self.whole.ids, self.pick, lambda made: [self._reasons[place] for place in made.indices.tolist()]
        )

    def pick(self, total: int) -> Selection:
        """Choose `total` rows; picks of the categories alternate, so that the first have the shares of the whole.

        Raises:
            InputError: see `mix`.
        """
        started = Counter(self.labels if self.shares == "pool" else self._own_choice(total))
        found = self.mix = mix(self.mixture, self.reader, self.labels, started, total)
        self._reasons, picked = {}, []
        for name, rows in zip(found.names, found.rows.tolist(), strict=True):
            picked += self._within(name, rows) if rows else []
        picked.sort()
        indices = np.array([place for *_, place in picked], dtype=np.int64)
        return Selection(indices, np.array([score for _, score, _ in picked], dtype=np.float64))

    def _own_choice(self, total: int) -> list[str]:
        return [self.labels[place] for place in self.whole.pick(total).indices.tolist()]

    def _within(self, name: str, rows: int) -> list[tuple[float, float, int]]:
        """Picks of a category: how far into its choice each is, its score, and its place among all rows."""
        members = {row for row, label in zip(self.whole.ids, self.labels, strict=True) if label == name}
        chooser = self.chooser_of(self.reader.only(members))
        chosen = chooser.pick(rows)
        if len(chosen) < rows:
            warnings.warn(f"category {name}: {len(chosen)} of {rows} rows chosen", UserWarning, stacklevel=2)
        places = [self.places[chooser.ids[row]] for row in chosen.indices.tolist()]
        told = zip(places, chooser.why(chosen), strict=True)
        self._reasons |= {place: f"{name}: {reason}" for place, reason in told}
        depths = ((rank + 0.5) / len(chosen) for rank in range(len(chosen)))
        return list(zip(depths, chosen.scores.tolist(), places, strict=True))


def _importance(mixture: Mixture, reader: StudyReader, names: Sequence[str], have: np.ndarray) -> np.ndarray:
    """How much each category counts, sums to 1; "other", of which nothing is known, counts nothing."""
    wanted = mixture.importance
    measured = np.array([name != OTHER for name in names])
    if isinstance(wanted, dict):
        unknown = sorted(set(wanted) - set(np.asarray(names)[measured].tolist()))
        if unknown:
            raise InputError(
                f"mixture.importance names {unknown[0]!r}, which is no measured category; they are "
                f"{', '.join(np.asarray(names)[measured].tolist())}"
            )
        shares = np.array([wanted.get(name, 0.0) for name in names])
    elif wanted == "targets":
        by_target = reader.manifest("categorize")["result"]["validation"].values()
        # Each target counts the same, however many validation rows it has.
        shares = np.array([sum(found.get(name, 0) / sum(found.values()) for found in by_target) for name in names])
    else:
        shares = np.where(measured, have if wanted == "proportional" else 1.0, 0.0).astype(np.float64)
    found: np.ndarray = shares / shares.sum()
    return found


def _own_effects(own: Sequence[float], importance: np.ndarray) -> np.ndarray:
    """What rows of each category do for it, in units of their mean over what counts; "other" has none."""
    found = np.zeros(len(importance))
    found[: len(own)] = np.maximum(own, 0)
    mean = float(importance @ found)
    if not mean > 0:
        raise InputError("mixture.effects_in: no category that importance counts is helped by its own rows; use rows")
    return found / mean


def _with_other(values: Any, size: int) -> np.ndarray:
    """A matrix of the measured categories, with a row of no effects for "other" if that is the last of `size`."""
    matrix = np.array(values, dtype=np.float64)
    wide = np.zeros((size, size))
    wide[: len(matrix), : len(matrix)] = matrix
    return wide


def _bounds(
    mixture: Mixture, names: Sequence[str], have: np.ndarray, start_shares: np.ndarray, total: int
) -> tuple[np.ndarray, np.ndarray]:
    """Floors as wanted, capacities as the pool has them; "other" stays as it is."""
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
