"""A method's choice as a table: which rows, in which order, with which score, and why."""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pyarrow as pa

from instsel.choice.budget import Budget, choose
from instsel.choice.constrained import ConstrainedChooser, ReasonedChooser
from instsel.choice.data import method_data
from instsel.choice.spending import spent_tokens
from instsel.config.mixture import Mixture
from instsel.config.study import StudyConfig
from instsel.errors import InputError
from instsel.selection import random
from instsel.selection.base import Form, Method
from instsel.selection.method_data import ColumnData, IndexData, MethodData
from instsel.selection.picked import Selection
from instsel.selection.quotas import select as by_quotas
from instsel.study.reader import StudyReader
from instsel.study.results import MixtureShares
from instsel.study.runs import Run, check_sources, reference_of

Log = Callable[[str], None]
SELECTED = "selected.parquet"
"""The table of a selection, in its folder."""


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
        reference: The run whose selection the method refers to.
        epochs: Of the training on what is chosen.
        include_validation: Whether it is trained on validation rows too.
    """

    method: Method
    seed: int
    budget: Budget
    form: Form
    damping: float
    mixture: Mixture | None = None
    quotas: Mapping[str, float] | None = None
    reference: Run | None = None
    epochs: int = 1
    include_validation: bool = False

    @classmethod
    def of(cls, config: StudyConfig, run: Run) -> "PickRequest":
        """Return what a study asks of the selection of one of its runs."""
        part, method = config.selection, run.method
        return cls(
            method,
            run.seed,
            Budget(run.budget, part.unit),
            part.attribution,
            part.damping,
            config.mixture,
            method.quota_shares(part.quotas, config.targets),
            reference_of(config, run),
            config.finetune.epochs,
            part.include_validation,
        )

    @property
    def is_prefix_stable(self) -> bool:
        """Whether the choice of a smaller budget is the beginning of a larger one's.

        With unequal quotas a smaller budget ends the turns of the smaller ones earlier.
        """
        are_alike = self.quotas is None or len(set(self.quotas.values())) == 1
        stands_alone = self.method.mixture is None and self.method.refers_to is None
        return self.method.is_prefix_stable and stands_alone and are_alike


@dataclass(frozen=True)
class Picks:
    """A choice of rows.

    Attributes:
        table: One line for each pick, in order: id, rank (from 0), score, reason.
        mixture: The shares that the choice keeps to, if it keeps to some.
        details: What else the choice goes by: `task_gains` of smart, `component_shares` of g2is, `quotas`.
        lines: Lines of the training set that are rows chosen, which come again in their order where it has more lines;
            None for each once.
        validation: Ids of validation rows, a further line of the training set each.
    """

    table: pa.Table
    mixture: MixtureShares | None = None
    details: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    lines: int | None = None
    validation: Sequence[str] = ()


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
        data = method_data(request.method, spec, reader)
        if request.reference is not None and not request.method.is_extended and isinstance(data, IndexData):
            data = replace(data, reference=_reference_rows(request.reference, reader))
        return cls(request.method, request.seed, data, request.quotas)

    @property
    def ids(self) -> Sequence[str]:
        return self.data.ids

    def divided(self, members: Sequence[np.ndarray]) -> "list[MethodChooser]":
        """Return the method on groups of the rows, each as if it were all; int64 row numbers of each, ascending."""
        return [replace(self, data=data) for data in self.data.divided(members)]

    def pick(self, rows: int) -> Selection:
        if self.quotas is None:
            return self.method.select(self.data, rows, self.seed)
        assert isinstance(self.data, ColumnData)
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
    tokens = reader.index["tokens"].to_numpy().astype(np.int64)[reader.positions(chooser.ids)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            choice = _choose(request, chooser, tokens, reader)
            selection, details = choice.selection, {**chooser.details(choice.selection), **choice.details}
            validation = _validation_lines(request, reader)
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
    return Picks(table, shares, details, choice.lines, validation)


@dataclass(frozen=True)
class _Choice:
    """A selection, details of it, and the lines of the training set that it has, see `Picks`."""

    selection: Selection
    details: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    lines: int | None = None


def _choose(request: PickRequest, chooser: ReasonedChooser, tokens: np.ndarray, reader: StudyReader) -> _Choice:
    """Choose as many rows as the method is to have: those of the budget, all, none, or as many as another selection."""
    method, budget = request.method, request.budget.of(reader.prepared.pool)
    if method.picks != "budget":
        return _Choice(chooser.pick(len(chooser.ids) if method.picks == "all" else 0))
    if request.reference is None:
        return _Choice(choose(chooser, budget, tokens, request.is_prefix_stable))
    if not method.is_extended:
        # As many rows as the other selection has, whatever the budget.
        return _Choice(chooser.pick(len(tokens)))
    with warnings.catch_warnings():
        # That there are not so many rows is no fault: it is what is asked.
        warnings.simplefilter("ignore")
        whole = chooser.pick(len(tokens))
    first = choose(chooser, budget, tokens, True)
    spent = spent_tokens(request.reference.method, reader)
    limit = int(tokens[first.indices].sum()) + int(sum(spent.values()) / request.epochs)
    selection = choose(chooser, Budget(limit, "tokens"), tokens, True)
    if len(selection) < len(whole):
        return _Choice(selection, {"spent": spent})
    # The pool has no more, and rows come again, as in further epochs.
    lengths = tokens[selection.indices]
    passes, rest = divmod(limit, int(lengths.sum()))
    lines = passes * len(selection) + int(np.searchsorted(np.cumsum(lengths), rest, side="right"))
    return _Choice(selection, {"spent": spent}, lines)


def _reference_rows(run: Run, reader: StudyReader) -> np.ndarray:
    """Return the rows of the selection that a run trains on, int64 (k,), positions in the pool's index."""
    reader.manifest(f"select/{run.selection}")
    return reader.positions((reader.study / "select" / run.selection).read_table(SELECTED, ["id"])["id"])


def _validation_lines(request: PickRequest, reader: StudyReader) -> list[str]:
    """Return the ids of the validation rows that are trained on, one a line of the training set.

    With `validation_only` they take the place of the budget's rows: they come again and again, each as often as the
    others or once more, so that there are as many steps as on a selection.
    """
    alone = request.method.picks == "none"
    if not (alone or request.include_validation):
        return []
    sizes = reader.validation_sizes()
    if not alone:
        return [row for row, _ in sizes]
    # One order for all seeds of training, which share the selection.
    order = random.select(len(sizes), len(sizes), seed=0).indices
    ids, tokens = [sizes[row][0] for row in order], np.array([sizes[row][1] for row in order], dtype=np.int64)
    budget = request.budget.of(reader.prepared.pool)
    added = 0 if not request.include_validation else len(ids) if budget.unit == "rows" else int(tokens.sum())
    limit = int(budget.amount) + added
    if budget.unit == "rows":
        lines = limit
    else:
        passes, rest = divmod(limit, int(tokens.sum()))
        lines = passes * len(ids) + int(np.searchsorted(np.cumsum(tokens), rest, side="right"))
    if lines < len(ids):
        warnings.warn(f"the budget has {lines} of the {len(ids)} validation rows", stacklevel=2)
    if not lines:
        raise InputError(f"selection.budget is {limit} tokens, and the first validation row has more; raise it")
    return [ids[line % len(ids)] for line in range(lines)]


def _constrained(request: PickRequest, reader: StudyReader) -> ConstrainedChooser | None:
    """Return the chooser that keeps to a mixture, where the method does."""
    method = request.method
    if method.mixture is None:
        return None
    if request.mixture is None:
        raise InputError(f"{method.name}: mixture: {method.mixture} needs the key `mixture` in the study file")
    return ConstrainedChooser(MethodChooser.of(request, reader), method.mixture, request.mixture, reader)
