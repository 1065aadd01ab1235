"""The contract of a selection method: its entry in the study file, the data that it gets, the selection it returns.

A method is one file: an array function `select`, and a subclass of `Method` that a study file names. The modules of
this package are found by `instsel.selection.registry`, those of other packages by the entry point `instsel.methods`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, JsonValue, model_validator

from instsel.io.matrix import MAPPED_BYTES
from instsel.mixture.curriculum import Order
from instsel.selection.cost import FLOAT32, FLOAT64, INDEX_ROW_BYTES, MIB, MethodCost, Shape
from instsel.strict import StrictModel

Requires = Literal["index", "influence", "gradients", "embeddings", "hidden_states", "likelihood"]
Form = Literal["cosine", "fisher"]
Average = Literal["cosines", "gradients"]
Groups = Literal["source", "task", "category"]
Shares = Literal["pool", "choice"]


@dataclass(frozen=True, eq=False)
class Selection:
    """Rows of a pool in the order in which they were picked. The arrays are copies and cannot be written to.

    Attributes:
        indices: int64 (k,), row numbers in pick order, each at most once.
        scores: float64 (k,), the value each pick had when it was picked.
        driven_by: int64 (k,) or None: what drove each pick. bids, instance_max, round_robin: the validation example
            (column of the attribution as it was given, whether or not columns were dropped) whose need the pick met.
            rds: the validation row whose turn it was. less, task_max, smart, proportional and equal: the position of
            the subtask, task or group among the sorted unique labels. g2is: the component, 0 has the largest variance.
            None where nothing in particular drives a pick.

    Raises:
        ValueError: an array of the wrong rank, length or dtype, a negative or repeated index, a score that is not
            finite.
    """

    indices: np.ndarray
    scores: np.ndarray
    driven_by: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check the arrays, bring them to their dtypes and freeze them."""
        indices = _frozen("indices", self.indices, np.int64)
        if indices.size and indices.min() < 0:
            raise ValueError(f"indices must not be negative, got {indices.min()}")
        values, counts = np.unique(indices, return_counts=True)
        if values.size != indices.size:
            raise ValueError(f"indices must differ, got {values[counts > 1][0]} more than once")
        scores = _frozen("scores", self.scores, np.float64)
        if not np.isfinite(scores).all():
            raise ValueError(f"scores must be finite, got {scores[~np.isfinite(scores)][0]}")
        object.__setattr__(self, "indices", indices)
        object.__setattr__(self, "scores", scores)
        _same_length("scores", scores, indices)
        if self.driven_by is not None:
            driven_by = _frozen("driven_by", self.driven_by, np.int64)
            _same_length("driven_by", driven_by, indices)
            object.__setattr__(self, "driven_by", driven_by)

    def __len__(self) -> int:
        """Return the number of rows picked."""
        return len(self.indices)

    @property
    def drivers(self) -> list[int]:
        """What drove each pick; empty where nothing did."""
        return [] if self.driven_by is None else self.driven_by.tolist()


def _frozen(name: str, values: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must have rank 1, got shape {array.shape}")
    if array.size and not np.can_cast(array.dtype, dtype, casting="safe"):
        raise ValueError(f"{name} must be {np.dtype(dtype)}, got {array.dtype}")
    copy = array.astype(dtype, copy=True)
    copy.setflags(write=False)
    return copy


def _same_length(name: str, array: np.ndarray, indices: np.ndarray) -> None:
    if len(array) != len(indices):
        raise ValueError(f"{name} must have one entry for each of {len(indices)} indices, got {len(array)}")


@dataclass(frozen=True)
class AttributionSpec:
    """How the influence of a pool row on what is validated is computed.

    Attributes:
        form: The cosine, or the product preconditioned by the damped Fisher matrix of the pool.
        damping: Of fisher; None for the cosine.
        average: "cosines" has a column for each validation row, "gradients" one for each subtask: the influence on its
            mean gradient.
    """

    form: Form
    damping: float | None
    average: Average = "cosines"

    @classmethod
    def of(cls, form: Form, damping: float, average: Average = "cosines") -> "AttributionSpec":
        """Return the spec of a form; the damping counts where the form has one."""
        return cls(form, damping if form == "fisher" else None, average)

    @property
    def name(self) -> str:
        """Name of the stage that computes it."""
        parts = [self.form, *([] if self.damping is None else [f"{self.damping:g}"])]
        return "-".join([*parts, *(["subtasks"] if self.average == "gradients" else [])])


def _no_groups(by: Groups) -> Sequence[str]:
    raise ValueError(f"by is {by!r}, but these rows come without groups")


@dataclass(frozen=True)
class MethodData:
    """What a method chooses from: n rows of the pool. Subclasses add what `Method.requires` says.

    Attributes:
        ids: (n,), names of the rows.
        labels_of: From "source", "task" or "category" to the label of each row, (n,).
    """

    ids: Sequence[str]
    labels_of: Callable[[Groups], Sequence[str]] = field(default=_no_groups, kw_only=True, repr=False)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ids)

    def groups(self, by: Groups) -> np.ndarray:
        """Return the group of each row, (n,) texts.

        Raises:
            InputError: categories are asked for, and the study has none.
        """
        return np.asarray(self.labels_of(by))


@dataclass(frozen=True)
class IndexData(MethodData):
    """The pool's index: `answer_tokens` and `tokens` (prompt and answer), int64 (n,)."""

    answer_tokens: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class LikelihoodData(MethodData):
    """The base model's mean loss of each answer in nats, float (n,): with its instruction, and alone (NaN: unknown)."""

    loss: np.ndarray
    loss_alone: np.ndarray


@dataclass(frozen=True)
class EmbeddingData(MethodData):
    """Prompt embeddings: `values`, float32 (n, e)."""

    values: np.ndarray


@dataclass(frozen=True)
class ValidatedData(MethodData):
    """Vectors, and the validation rows that they are compared with.

    Attributes:
        values: (n, width); may be memory-mapped.
        columns: m rows of id, target and subtask: what rows are compared with.
    """

    values: np.ndarray
    columns: pa.Table

    def column_labels(self, key: Literal["target", "subtask"]) -> np.ndarray:
        """Return the target or the subtask of each column, (m,) texts."""
        return np.asarray(self.columns[key].to_pylist())

    def example_reasons(self, selection: Selection) -> list[str]:
        """Name the validation example that drove each pick."""
        names = [f"validation example {row['subtask']}:{row['id']}" for row in self.columns.to_pylist()]
        return [names[driver] for driver in selection.drivers]


@dataclass(frozen=True)
class InfluenceData(ValidatedData):
    """Influence: `values` is float32 (n, m), positive where training on the row helps the column."""


@dataclass(frozen=True)
class GradientData(ValidatedData):
    """Gradients whose inner products are the influence: `values` (n, C d), `validation` (m, C d), float32."""

    validation: np.ndarray


@dataclass(frozen=True)
class HiddenStateData(ValidatedData):
    """Hidden states: `values` (n, h) of the pool, `validation` (m, h), float32."""

    validation: np.ndarray


def label_reasons(kind: str, labels: np.ndarray, selection: Selection) -> list[str]:
    """Name the label, among the sorted unique ones, that drove each pick: "subtask algebra"."""
    names = [f"{kind} {label}" for label in np.unique(labels)]
    return [names[driver] for driver in selection.drivers]


class Method(StrictModel, ABC):
    """A selection method as the study file has it: the entry, checked, is the method.

    A subclass gives `method` the literal that names it, and has `select` and `reasons`. The rest has defaults.

    Attributes:
        requires: The data that `select` gets: "index" IndexData, "influence" InfluenceData, and so on.
        is_stochastic: Whether a seed changes the choice.
        is_prefix_stable: Whether the choice of a smaller budget is the beginning of a larger one's.
        is_baseline: Whether the report compares all others with it.
        scans_pool: Whether every pick looks at all rows, so that time grows with rows times picks.
        version: Raised when the same data and settings give other picks; part of a selection's fingerprint.
        array_function: What `instsel.select` calls with the data, `budget=` and options; None: not offered there.
    """

    requires: ClassVar[Requires] = "index"
    is_stochastic: ClassVar[bool] = False
    is_prefix_stable: ClassVar[bool] = True
    is_baseline: ClassVar[bool] = False
    scans_pool: ClassVar[bool] = False
    version: ClassVar[int] = 1
    array_function: ClassVar[Callable[..., Selection] | None] = None

    method: str = Field(description="name of the method")
    name: str = Field("", description="name of this selection; default the method's")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0],
        min_length=1,
        description="one training run a seed, added to finetune.seed; a stochastic method also chooses by it",
    )
    mixture: Shares | None = Field(
        None,
        description="keep to the shares that the linear program of `mixture` makes of the pool's, or of what the "
        "method would choose; default no shares are kept",
    )
    order: Order = Field("shuffled", description="order of training by the levels of `curriculum`")

    @model_validator(mode="after")
    def _name_by_method(self) -> "Method":
        if "name" not in self.model_fields_set:
            # The model is frozen, and the name stays unset: where a search exchanges the method, its name follows.
            object.__setattr__(self, "name", self.method)
        return self

    @abstractmethod
    def select(self, data: Any, budget: int, seed: int) -> Selection:
        """Pick rows.

        Args:
            data: What `requires` says, of n rows.
            budget: Rows wanted; above n gives all n.
            seed: Of a stochastic method.

        Raises:
            ValueError: the method cannot choose so from these rows; the message says what to change.
        """

    @abstractmethod
    def reasons(self, data: Any, selection: Selection, seed: int) -> list[str]:
        """Say why each row of a selection was picked, in pick order."""

    def details(self, data: Any) -> Mapping[str, Mapping[str, float]]:
        """Return what else the choice goes by, numbers by label, to be kept in the selection's manifest."""
        return {}

    def check(self, targets: Collection[str], form: Form) -> None:
        """Check the entry against the rest of the study file.

        Args:
            targets: Names of the study's targets.
            form: `selection.attribution`.

        Raises:
            ValueError: they contradict each other; the message says what to change.
        """

    def settings(self) -> dict[str, JsonValue]:
        """Return what the choice depends on, JSON values: part of the selection's fingerprint."""
        return {"version": self.version, **self.model_dump(mode="json", exclude={"name", "seeds", "order", "mixture"})}

    def attribution_spec(self, form: Form, damping: float) -> AttributionSpec | None:
        """Return the influence that the method reads, None if it reads none.

        Args:
            form: `selection.attribution`, for an entry that names none.
            damping: `selection.damping`, for an entry that names none.
        """
        return None

    @property
    def target_names(self) -> list[str] | None:
        """Targets that the method chooses for; None for all, and for a method that has none."""
        return None

    @property
    def grouping(self) -> Groups | None:
        """What divides the pool for the method, if anything does."""
        return None

    @property
    def needs_categories(self) -> str | None:
        """What of the entry needs the pool's rows to have categories, as it is written; None if nothing does."""
        if self.grouping == "category":
            return "by: category"
        if self.mixture is not None:
            return f"mixture: {self.mixture}"
        return None if self.order == "shuffled" else f"order: {self.order}"

    def cost(self, shape: Shape) -> MethodCost:
        """Return what a choice from such a pool takes."""
        read = FLOAT32 * shape.rows * shape.width(self.requires)
        held, scratch = (read, 0) if read <= MAPPED_BYTES else (0, read)
        memory = shape.rows * INDEX_ROW_BYTES + held + self.working_memory(shape)
        return MethodCost(self.work(shape), memory, scratch)

    def work(self, shape: Shape) -> float:
        """Return a number that grows as the time of a choice does where the widths stay as they are."""
        return float(shape.rows * shape.chosen) if self.scans_pool else float(shape.rows)

    def working_memory(self, shape: Shape) -> int:
        """Return the bytes that the method takes beside ids and data."""
        return 0

    def pool_sizes(self, shape: Shape) -> list[int]:
        """Return the rows of the pools that the method chooses in, one after the other."""
        return [shape.rows]

    def timed_as(self) -> "Method":
        """Return the method whose time on a few rows tells that of this one, as their `work` grows."""
        return self

    def timed_select(self, data: Any, budget: int, shape: Shape) -> Selection:
        """Pick rows as `select` would from the largest pool of the study, of this shape, to be timed.

        Args:
            data: Random numbers, of a few rows.
            budget: Rows wanted.
            shape: Of the largest pool.
        """
        return self.select(data, budget, 0)


class GroupedMethod(Method):
    """A method that divides the pool by a label of its rows."""

    by: Groups = Field("source", description="what divides the pool; a row without a task counts to its source's rest")

    @property
    def grouping(self) -> Groups | None:
        return self.by


class TargetedMethod(Method):
    """A method that chooses for targets."""

    targets: list[str] | None = Field(None, min_length=1, description="targets to choose for; default all")

    @property
    def target_names(self) -> list[str] | None:
        return self.targets

    def check(self, targets: Collection[str], form: Form) -> None:
        for name in self.targets or ():
            if name not in targets:
                known = ", ".join(targets)
                raise ValueError(f"selection.methods: {self.name!r} chooses for {name!r}; targets are {known}")


class AttributedMethod(TargetedMethod):
    """A method that chooses by the influence of pool rows on validation rows, or by gradients whose products it is."""

    attribution: Form | None = Field(None, description="cosine or fisher; default selection.attribution")
    damping: float | None = Field(None, gt=0, description="damping of fisher; default selection.damping")

    def check(self, targets: Collection[str], form: Form) -> None:
        super().check(targets, form)
        if self.damping is not None and (self.attribution or form) != "fisher":
            raise ValueError(
                f"selection.methods: {self.name!r} has a damping, which only `attribution: fisher` reads; "
                "remove it or write that"
            )

    def settings(self) -> dict[str, JsonValue]:
        # Which influence it is, the selection's fingerprint has by the spec's name.
        return {key: value for key, value in super().settings().items() if key not in ("attribution", "damping")}

    def attribution_spec(self, form: Form, damping: float) -> AttributionSpec | None:
        return AttributionSpec.of(self.attribution or form, self.damping or damping, self.averages)

    @property
    def averages(self) -> Average:
        """What is averaged within a subtask before the method sees it."""
        return "cosines"


class InfluenceMethod(AttributedMethod):
    """A method that reads the influence of pool rows on validation rows as a matrix."""

    requires: ClassVar[Requires] = "influence"

    def working_memory(self, shape: Shape) -> int:
        return 3 * min(32 * MIB, shape.rows * shape.columns * FLOAT64)
