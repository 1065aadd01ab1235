"""A method's choice as a table: which rows, in which order, with which score, and why."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from instsel.choice.budget import Budget, choose
from instsel.choice.constrained import ConstrainedChooser
from instsel.choice.data import method_data
from instsel.config.mixture import Mixture
from instsel.errors import InputError
from instsel.selection.base import Form, Method, MethodData, Selection
from instsel.study.reader import StudyReader
from instsel.study.results import MixtureShares
from instsel.study.runs import check_sources

Log = Callable[[str], None]


@dataclass(frozen=True)
class PickRequest:
    """What is to be chosen.

    Attributes:
        method: As the study file has it.
        seed: Of a stochastic method.
        budget: Rows or tokens to choose.
        form: Of the influence, for a method that names none itself.
        damping: Of fisher, for a method that names none itself.
        mixture: Settings of the linear program, for a method that keeps to its shares.
    """

    method: Method
    seed: int
    budget: Budget
    form: Form
    damping: float
    mixture: Mixture | None = None


@dataclass(frozen=True)
class Picks:
    """A choice of rows.

    Attributes:
        table: One line for each pick, in order: id, rank (from 0), score, reason.
        mixture: The shares that the choice keeps to, if it keeps to some.
        details: What else the choice goes by: `task_gains` of smart, `component_shares` of g2is.
    """

    table: pa.Table
    mixture: MixtureShares | None = None
    details: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodChooser:
    """A method on the rows that it can choose from."""

    method: Method
    seed: int
    data: MethodData

    @classmethod
    def of(cls, request: PickRequest, reader: StudyReader) -> "MethodChooser":
        """Read what the method of a request chooses from.

        Raises:
            InputError: the study has no result of a stage that the method needs.
        """
        spec = request.method.attribution_spec(request.form, request.damping)
        return cls(request.method, request.seed, method_data(request.method, spec, reader))

    @property
    def ids(self) -> Sequence[str]:
        return self.data.ids

    def pick(self, rows: int) -> Selection:
        return self.method.select(self.data, rows, self.seed)

    def reasons(self, selection: Selection) -> list[str]:
        """Say why each row of a selection was picked."""
        return self.method.reasons(self.data, selection, self.seed)

    def details(self) -> Mapping[str, Mapping[str, float]]:
        """Return what else the choice goes by."""
        return self.method.details(self.data)


def make_picks(request: PickRequest, reader: StudyReader, log: Log) -> Picks:
    """Choose rows.

    Args:
        request: What to choose.
        reader: The study.
        log: Called with each text that the method warns of.

    Raises:
        InputError: the budget does not fit the pool, the study lacks what the method needs, or the method cannot choose
            so from what there is.
    """
    method = request.method
    check_sources(method, reader.prepared.pool)
    constrained = _constrained(request, reader)
    chooser = MethodChooser.of(request, reader) if constrained is None else constrained
    budget = request.budget.of(reader.prepared.pool)
    sizes = dict(zip(reader.index["id"].to_pylist(), reader.index["tokens"].to_pylist(), strict=True))
    prefix_stable = method.is_prefix_stable and constrained is None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            selection = choose(chooser, budget, [sizes[row] for row in chooser.ids], prefix_stable)
            details = chooser.details()
        except ValueError as error:
            raise InputError(f"{method.name}: {error}") from error
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        log(f"{method.name}: {message}")
    table = pa.table(
        {
            "id": pa.array([chooser.ids[row] for row in selection.indices], pa.string()),
            "rank": pa.array(np.arange(len(selection))),
            "score": pa.array(selection.scores),
            "reason": pa.array(chooser.reasons(selection), pa.string()),
        }
    )
    shares = None if constrained is None or constrained.solved is None else constrained.solved.shares()
    return Picks(table, shares, details)


def _constrained(request: PickRequest, reader: StudyReader) -> ConstrainedChooser | None:
    """Return the chooser that keeps to a mixture, where the method does."""
    method = request.method
    if method.mixture is None:
        return None
    if request.mixture is None:
        raise InputError(f"{method.name}: mixture: {method.mixture} needs the key `mixture` in the study file")
    return ConstrainedChooser(lambda part: MethodChooser.of(request, part), method.mixture, request.mixture, reader)
