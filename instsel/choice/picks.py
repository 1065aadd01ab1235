"""A method's choice as a table: which rows, in which order, with which score, and why."""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa

from instsel.choice.budget import Budget, choose
from instsel.choice.constrained import ConstrainedChooser
from instsel.choice.data import method_data
from instsel.config.mixture import Mixture
from instsel.config.study import StudyConfig
from instsel.errors import InputError
from instsel.selection.base import ColumnData, ColumnMethod, Form, Method, MethodData, Selection
from instsel.selection.quotas import select as by_quotas
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
        quotas: Target -> its share of the picks, for a method that chooses target by target; None for all together.
    """

    method: Method
    seed: int
    budget: Budget
    form: Form
    damping: float
    mixture: Mixture | None = None
    quotas: Mapping[str, float] | None = None

    @classmethod
    def of(cls, config: StudyConfig, method: Method, seed: int) -> "PickRequest":
        """Return what a study asks of one of its methods."""
        part = config.selection
        return cls(
            method,
            seed,
            Budget(part.budget, part.unit),
            part.attribution,
            part.damping,
            config.mixture,
            method.quota_shares(part.quotas, config.targets),
        )

    @property
    def is_prefix_stable(self) -> bool:
        """Whether the choice of a smaller budget is the beginning of a larger one's.

        With unequal quotas a smaller budget ends the turns of the smaller ones earlier.
        """
        are_alike = self.quotas is None or len(set(self.quotas.values())) == 1
        return self.method.is_prefix_stable and self.method.mixture is None and are_alike


@dataclass(frozen=True)
class Picks:
    """A choice of rows.

    Attributes:
        table: One line for each pick, in order: id, rank (from 0), score, reason.
        mixture: The shares that the choice keeps to, if it keeps to some.
        details: What else the choice goes by: `task_gains` of smart, `component_shares` of g2is, `quotas`.
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
    quotas: Mapping[str, float] | None = None
    _target_of: dict[int, str] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, request: PickRequest, reader: StudyReader) -> "MethodChooser":
        """Read what the method of a request chooses from.

        Raises:
            InputError: the study has no result of a stage that the method needs.
        """
        spec = request.method.attribution_spec(request.form, request.damping)
        return cls(request.method, request.seed, method_data(request.method, spec, reader), request.quotas)

    @property
    def ids(self) -> Sequence[str]:
        return self.data.ids

    def pick(self, rows: int) -> Selection:
        if self.quotas is None:
            return self.method.select(self.data, rows, self.seed)
        assert isinstance(self.method, ColumnMethod) and isinstance(self.data, ColumnData)
        choice = by_quotas(
            partial(self.method.pickers, self.data),
            len(self.data),
            rows,
            quotas=self.quotas,
            targets=self.data.column_labels("target"),
        )
        self._target_of.clear()
        self._target_of.update(zip(choice.selection.indices.tolist(), map(str, choice.labels), strict=True))
        return choice.selection

    def reasons(self, selection: Selection) -> list[str]:
        """Say why each row of the last choice was picked; with quotas, of which target's."""
        reasons = self.method.reasons(self.data, selection, self.seed)
        if self.quotas is None:
            return reasons
        targets = (self._target_of[row] for row in selection.indices.tolist())
        return [f"quota of {target}: {reason}" for target, reason in zip(targets, reasons, strict=True)]

    def details(self, selection: Selection) -> Mapping[str, Mapping[str, float]]:
        """Return what else the choice goes by, and with quotas how many rows each target chose."""
        details = self.method.details(self.data)
        if self.quotas is None:
            return details
        rows = Counter(self._target_of[row] for row in selection.indices.tolist())
        return {**details, "quotas": {target: rows[target] for target in self.quotas}}


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
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            selection = choose(chooser, budget, [sizes[row] for row in chooser.ids], request.is_prefix_stable)
            details = chooser.details(selection)
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
