"""Selection methods as a study file names them: what each can be told, and which stages' results it reads."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from instsel.mixture.curriculum import Order
from instsel.strict import StrictModel

Form = Literal["cosine", "fisher"]
SubmodularFunction = Literal["facility_location", "graph_cut", "log_det"]
Groups = Literal["source", "task", "category"]
Shares = Literal["pool", "choice"]
Average = Literal["cosines", "gradients"]


@dataclass(frozen=True)
class AttributionSpec:
    """One way to take the influence of a pool row on what is validated.

    Attributes:
        form: the cosine, or the product preconditioned by the damped Fisher matrix of the pool.
        damping: of fisher; None for the cosine.
        average: "cosines" has a column a validation row, "gradients" one a subtask: the influence on the mean gradient.
    """

    form: Form
    damping: float | None
    average: Average = "cosines"

    @classmethod
    def of(cls, form: Form, damping: float, average: Average = "cosines") -> "AttributionSpec":
        """The influence of a form; the damping counts where the form has one."""
        return cls(form, damping if form == "fisher" else None, average)

    @property
    def name(self) -> str:
        """Name of the stage that computes it."""
        parts = [self.form, *([] if self.damping is None else [f"{self.damping:g}"])]
        return "-".join([*parts, *(["subtasks"] if self.average == "gradients" else [])])


class BaseMethod(StrictModel):
    """What every method has.

    Attributes:
        reads: the stage whose result the method chooses by, beside the pool's index.
        draws: whether a seed changes what is chosen.
        nested: whether the choice of a smaller budget is the beginning of a larger one's.
    """

    requires: ClassVar[str] = "prepare"
    is_stochastic: ClassVar[bool] = False
    is_prefix_stable: ClassVar[bool] = True

    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0],
        min_length=1,
        description="one training run a seed, added to finetune.seed; a method that draws, draws by it",
    )
    mixture: Shares | None = Field(
        None,
        description="keep to the shares that the programme of `mixture` makes of the pool's, or of what the method "
        "would choose; default no shares are kept",
    )
    order: Order = Field("shuffled", description="order of training by the levels of `curriculum`")

    def attribution_spec(self, form: Form, damping: float) -> AttributionSpec | None:
        """The influence that the method reads, where the study's form and damping are these; None if it reads none."""
        return None

    @property
    def needs_categories(self) -> str | None:
        """What of the method needs the pool's rows to have categories, as it is written; None if nothing does."""
        if getattr(self, "by", None) == "category":
            return "by: category"
        if self.mixture is not None:
            return f"mixture: {self.mixture}"
        return None if self.order == "shuffled" else f"order: {self.order}"


class RandomMethod(BaseMethod):
    is_stochastic = True
    method: Literal["random"] = Field(description="a uniform draw, the baseline of the report")
    name: str = Field("random", description="name of this selection")


class ProportionalMethod(BaseMethod):
    is_stochastic = True
    is_prefix_stable = False
    method: Literal["proportional"] = Field(description="a uniform draw within each source, as large as its share")
    name: str = Field("proportional", description="name of this selection")
    by: Groups = Field("source", description="what divides the pool; a row without a task counts to its source's rest")


class EqualMethod(BaseMethod):
    is_stochastic = True
    is_prefix_stable = False
    method: Literal["equal"] = Field(description="a uniform draw within each source, all of one size")
    name: str = Field("equal", description="name of this selection")
    by: Groups = Field("source", description="what divides the pool; a row without a task counts to its source's rest")


class LongestMethod(BaseMethod):
    method: Literal["longest"] = Field(description="rows with the most answer tokens")
    name: str = Field("longest", description="name of this selection")


class PerplexityMethod(BaseMethod):
    requires = "likelihood"
    method: Literal["perplexity"] = Field(description="rows in the middle by the base model's loss")
    name: str = Field("perplexity", description="name of this selection")


class IfdMethod(BaseMethod):
    requires = "likelihood"
    method: Literal["ifd"] = Field(description="rows whose instruction helps the base model least, but does help")
    name: str = Field("ifd", description="name of this selection")


class TargetedMethod(BaseMethod):
    """A method that chooses for targets."""

    targets: list[str] | None = Field(None, min_length=1, description="targets to choose for; default all")


class RdsMethod(TargetedMethod):
    requires = "hidden_states"
    method: Literal["rds"] = Field(
        description="rows most like a validation row in hidden states, validation rows in turn"
    )
    name: str = Field("rds", description="name of this selection")


class InfluenceMethod(TargetedMethod):
    """A method that reads the influence of pool rows on validation rows."""

    requires = "attribution"

    attribution: Form | None = Field(None, description="cosine or fisher; default selection.attribution")
    damping: float | None = Field(None, gt=0, description="damping of fisher; default selection.damping")

    def attribution_spec(self, form: Form, damping: float) -> AttributionSpec | None:
        return self.influence(form, damping)

    def influence(self, form: Form, damping: float) -> AttributionSpec:
        """The influence that the method reads, where the study's own form and damping are these."""
        return AttributionSpec.of(self.attribution or form, self.damping or damping, self.averages)

    @property
    def averages(self) -> Average:
        """What is averaged within a subtask before the method sees it."""
        return "cosines"


class LessMethod(InfluenceMethod):
    method: Literal["less"] = Field(description="mean influence within a subtask, best subtask counts, top rows")
    name: str = Field("less", description="name of this selection")
    average: Average = Field(
        "cosines",
        description="what is averaged within a subtask: influences (release) or gradients before them (paper)",
    )

    @property
    def averages(self) -> Average:
        return self.average


class BidsMethod(InfluenceMethod):
    method: Literal["bids"] = Field(
        description="influence standardised per validation example, then a balancing greedy"
    )
    name: str = Field("bids", description="name of this selection")
    normalize: bool = Field(True, description="standardise each validation example's column first")


class InstanceMaxMethod(InfluenceMethod):
    method: Literal["instance_max"] = Field(description="rows with the highest influence on any one validation example")
    name: str = Field("instance_max", description="name of this selection")
    normalize: bool = Field(False, description="standardise each validation example's column first")


class TaskMaxMethod(InfluenceMethod):
    method: Literal["task_max"] = Field(description="rows with the highest influence summed over any one target")
    name: str = Field("task_max", description="name of this selection")
    normalize: bool = Field(False, description="standardise each validation example's column first")


class SumMethod(InfluenceMethod):
    method: Literal["sum"] = Field(description="rows with the highest influence summed over all validation examples")
    name: str = Field("sum", description="name of this selection")
    normalize: bool = Field(False, description="standardise each validation example's column first")


class G2isMethod(InfluenceMethod):
    requires = "features"
    is_prefix_stable = False
    method: Literal["g2is"] = Field(description="a walk over the graph of gradients, one a principal component")
    name: str = Field("g2is", description="name of this selection")
    delta: float = Field(0.8, ge=0, le=1, description="share of the agreement with the component that a step must keep")
    explained_variance: float = Field(0.5, gt=0, le=1, description="variance that the components explain together")
    sign: Literal["release", "align"] = Field(
        "release", description="direction of a component: as PCA leaves it, or with the mean validation gradient"
    )
    neighbors: int | None = Field(
        None, ge=1, description="rows that a step looks at first, as the release; default all"
    )
    fill: Literal["similarity"] | None = Field(
        None, description="what fills the budget when no row is left that conflicts with none"
    )


class SmartMethod(BaseMethod):
    requires = "embed"
    is_prefix_stable = False
    method: Literal["smart"] = Field(description="budgets of tasks by one submodular function, rows by another")
    name: str = Field("smart", description="name of this selection")
    by: Groups = Field("source", description="what divides the pool; a row without a task counts to its source's rest")
    num_tasks: int | None = Field(None, ge=1, description="how many of the tasks are kept; default all")
    lam: float = Field(0.4, ge=0, description="weight of graph cut's redundancy")
    task_function: SubmodularFunction = Field("graph_cut", description="function that gives tasks their budgets")
    instance_function: SubmodularFunction = Field("facility_location", description="function that picks a task's rows")


class FacilityLocationMethod(BaseMethod):
    requires = "embed"
    method: Literal["facility_location"] = Field(description="rows whose prompts stand for all prompts of the pool")
    name: str = Field("facility_location", description="name of this selection")
    stochastic: float | None = Field(
        None, gt=0, lt=1, description="epsilon of stochastic greedy, for large budgets of large pools; default exact"
    )
    seed: int = Field(0, ge=0, description="seed of stochastic's draws")


class GraphCutMethod(BaseMethod):
    requires = "embed"
    method: Literal["graph_cut"] = Field(description="rows like the pool's prompts and unlike each other")
    name: str = Field("graph_cut", description="name of this selection")
    lam: float = Field(0.4, ge=0, description="weight of the redundancy")


class LogDetMethod(BaseMethod):
    requires = "embed"
    method: Literal["log_det"] = Field(description="rows whose prompts differ most from each other")
    name: str = Field("log_det", description="name of this selection")


AnyMethod = (
    RandomMethod
    | ProportionalMethod
    | EqualMethod
    | LongestMethod
    | PerplexityMethod
    | IfdMethod
    | RdsMethod
    | LessMethod
    | BidsMethod
    | InstanceMaxMethod
    | TaskMaxMethod
    | SumMethod
    | G2isMethod
    | SmartMethod
    | FacilityLocationMethod
    | GraphCutMethod
    | LogDetMethod
)


def _named_only(value: Any) -> Any:
    return {"method": value} if isinstance(value, str) else value


Method = Annotated[Annotated[AnyMethod, Field(discriminator="method")], BeforeValidator(_named_only)]
