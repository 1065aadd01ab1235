"""The contract of a selection method: its entry in the study file, the data that it gets, the selection it returns.

A method is one file: an array function `select`, and a subclass of `Method` that a study file names. The modules of
this package are found by `instsel.selection.registry`, those of other packages by the entry point `instsel.methods`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, JsonValue, model_validator

from instsel.io.matrix import MAPPED_BYTES
from instsel.mixture.curriculum import Order
from instsel.selection.cost import FLOAT32, FLOAT64, INDEX_ROW_BYTES, MIB, MethodCost, Shape

# Methods of other packages have all of the contract from here.
from instsel.selection.method_data import EmbeddingData as EmbeddingData
from instsel.selection.method_data import GradientData as GradientData
from instsel.selection.method_data import Groups
from instsel.selection.method_data import HiddenStateData as HiddenStateData
from instsel.selection.method_data import IndexData as IndexData
from instsel.selection.method_data import InfluenceData as InfluenceData
from instsel.selection.method_data import LikelihoodData as LikelihoodData
from instsel.selection.method_data import PromptData as PromptData
from instsel.selection.picked import Selection
from instsel.selection.pickers import Picker, check_shares
from instsel.strict import StrictModel

Requires = Literal["index", "influence", "gradients", "embeddings", "hidden_states", "likelihood", "prompts"]
TARGETED: tuple[Requires, ...] = ("influence", "gradients", "hidden_states", "prompts")
"""What is of validation rows as well as of the pool's."""
Form = Literal["cosine", "fisher", "contrast"]
Average = Literal["cosines", "gradients"]
Shares = Literal["pool", "choice"]
Quotas = Literal["equal", "none"] | dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
"""Of the study file: how a budget is split among targets; "none" chooses for all of them together."""


@dataclass(frozen=True)
class AttributionSpec:
    """How the influence of a pool row on what is validated is computed.

    Attributes:
        form: The cosine, the product preconditioned by the damped Fisher matrix of the pool, or the cosine with the
            validation rows' contrast gradients.
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


class Method(StrictModel, ABC):
    """A selection method as the study file has it: the entry, checked, is the method.

    A subclass gives `method` the literal that names it, and has `select` and `reasons`. The rest has defaults.

    Attributes:
        requires: The data that `select` gets: "index" IndexData, "influence" InfluenceData, and so on.
        is_stochastic: Whether a seed changes the choice.
        is_prefix_stable: Whether the choice of a smaller budget is the beginning of a larger one's.
        is_baseline: Whether the report compares all others with it.
        scans_pool: Whether every pick looks at all rows, so that time grows with rows times picks.
        picks: How many rows of the pool it picks: as many as the budget says, all, or none.
        version: Raised when the same data and settings give other picks; part of a selection's fingerprint.
        array_function: What `instsel.select` calls with the data, `budget=` and options; None: not offered there.
        array_pickers: The same for quotas: called with the data, the columns of each target, the number of picks and
            options, returns a picker for each target (`instsel.selection.quotas`). None: there are no quotas.
    """

    requires: ClassVar[Requires] = "index"
    is_stochastic: ClassVar[bool] = False
    is_prefix_stable: ClassVar[bool] = True
    is_baseline: ClassVar[bool] = False
    scans_pool: ClassVar[bool] = False
    picks: ClassVar[Literal["budget", "all", "none"]] = "budget"
    version: ClassVar[int] = 1
    array_function: ClassVar[Callable[..., Selection] | None] = None
    array_pickers: ClassVar[Callable[..., list[Picker]] | None] = None

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

    def pickers(self, data: Any, groups: Sequence[np.ndarray], count: int) -> list[Picker]:
        """Return one picker for each target, for a choice by quotas.

        Args:
            data: As for `select`.
            groups: int64 columns of each target.
            count: Picks of all targets together, from 1 to n.

        Raises:
            ValueError: a target cannot choose from these rows; the message says what to change.
        """
        raise NotImplementedError(f"{self.method} has no quotas")

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

    def check_reference(self, other: "Method") -> None:
        """Check the entry against the one that it refers to.

        Raises:
            ValueError: the other one cannot be referred to; the message says why.
        """

    def check_sources(self, sources: Collection[str]) -> None:
        """Check the entry against the sources of the pool, which are known once it is prepared.

        Raises:
            ValueError: the entry names one that is not there; the message names those that are.
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

    def quota_shares(self, default: Quotas | None, targets: Collection[str]) -> dict[str, float] | None:
        """Return each target's share of the picks; None where the method chooses for all targets together.

        Args:
            default: `selection.quotas`, for an entry that has none.
            targets: Names of the study's targets.

        Raises:
            ValueError: they do not fit the targets or the entry; the message says what to change.
        """
        return None

    @property
    def refers_to(self) -> str | None:
        """Name of the entry whose selection this one is measured by; None where it stands for itself."""
        return None

    @property
    def is_extended(self) -> bool:
        """Whether it picks more rows than the budget has, for what the selection that it refers to cost."""
        return False

    @property
    def is_reference(self) -> bool:
        """Whether the report compares other methods with this entry."""
        return self.is_baseline and self.is_comparable

    @property
    def is_comparable(self) -> bool:
        """Whether an entry of a method that is a baseline is one: nothing narrows what it draws from."""
        return True

    @property
    def needs_targets(self) -> bool:
        """Whether the choice is for targets, so that a study without any cannot make it."""
        return self.requires in TARGETED or self.picks == "none"

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
        # With a mixture the rows are laid out once more, category by category.
        laid = read if self.mixture is None else 2 * read
        held, scratch = (laid, 0) if read <= MAPPED_BYTES else (0, laid)
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


class ColumnMethod(TargetedMethod):
    """A method that reads a score of every pool row for every validation row, and so can choose target by target."""

    quotas: Quotas | None = Field(
        None,
        description="share of the picks that each target chooses by itself: `equal`, or shares that sum to 1; `none` "
        "chooses for all targets together; default selection.quotas",
    )

    def quota_shares(self, default: Quotas | None, targets: Collection[str]) -> dict[str, float] | None:
        quotas = self.quotas or default
        if quotas is None or quotas == "none":
            return None
        where = f"selection.methods: {self.name!r}"
        if self.mixture is not None:
            raise ValueError(f"{where} has quotas and a mixture, which are two ways to split a budget; remove one")
        if type(self).pickers is Method.pickers:
            raise ValueError(f"{where}: the method {self.method!r} cannot choose by quotas; write quotas: none for it")
        chosen = sorted(self.targets or targets)
        if isinstance(quotas, str):
            return {name: 1 / len(chosen) for name in chosen}
        try:
            check_shares(quotas, chosen)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        return {name: quotas[name] for name in chosen}

    def settings(self) -> dict[str, JsonValue]:
        # What they come to is said where the default is known; a choice without quotas is what it was.
        return {key: value for key, value in super().settings().items() if key != "quotas"}


class AttributedMethod(TargetedMethod):
    """A method that chooses by the influence of pool rows on validation rows, or by gradients whose products it is."""

    attribution: Form | None = Field(None, description="cosine, fisher or contrast; default selection.attribution")
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


class InfluenceMethod(AttributedMethod, ColumnMethod):
    """A method that reads the influence of pool rows on validation rows as a matrix."""

    requires: ClassVar[Requires] = "influence"

    def working_memory(self, shape: Shape) -> int:
        return 3 * min(32 * MIB, shape.rows * shape.columns * FLOAT64)
