"""The keys `mixture` and `curriculum` of a study file."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from instsel.config.training import Training
from instsel.mixture.experiments import Interventions, Regression
from instsel.strict import StrictModel

Estimator = Literal["interventions", "gradients", "regression"]
Importance = Literal["proportional", "equal", "targets"]
LevelName = Literal["preliminary", "intermediate", "subsequent"]


class ColumnCategories(StrictModel):
    by: Literal["source", "task"] = Field(description="column of the pool that names a row's category")


class ClusterCategories(StrictModel):
    by: Literal["clusters"] = Field(description="k-means over the prompt embeddings")
    count: int = Field(8, ge=2, description="clusters")
    seed: int = Field(0, ge=0, description="seed of k-means")


class EndpointCategories(StrictModel):
    by: Literal["endpoint"] = Field(description="a language model behind an OpenAI-compatible endpoint names them")
    url: str = Field(description="base URL of the endpoint: http://localhost:8000/v1")
    model: str = Field(description="name of the model there")
    key_variable: str | None = Field(None, description="environment variable that holds the key; default no key")
    labels: list[str] | None = Field(None, min_length=2, description="the categories to choose from; default free tags")
    count: int = Field(12, ge=2, description="free tags are merged to at most so many categories")
    rows_per_request: int = Field(8, ge=1, description="rows tagged per request")
    requests_at_once: int = Field(8, ge=1, description="concurrent requests")
    timeout: float = Field(60.0, gt=0, description="seconds to wait for an answer")
    attempts: int = Field(4, ge=1, description="attempts of a request before the study fails")


def _by_name(value: Any) -> Any:
    return {"by": value} if isinstance(value, str) else value


Categories = Annotated[
    Annotated[ColumnCategories | ClusterCategories | EndpointCategories, Field(discriminator="by")],
    BeforeValidator(_by_name),
]


class Mixture(StrictModel):
    categories: Categories = Field(ColumnCategories(by="source"), description="division of the pool into categories")
    evaluation_rows: int = Field(
        40, ge=2, description="rows of each category that are held out of all runs, for evaluation"
    )
    least_rows: int = Field(
        100, ge=4, description="categories with fewer rows are merged into `other`, whose proportion stays as it is"
    )
    estimator: Estimator = Field("gradients", description="estimator of the effects of categories on each other")
    compare: list[Estimator] = Field([], description="other estimators to run for comparison")
    interventions: Interventions = Field(Interventions(), description="of the estimator interventions")
    regression: Regression = Field(Regression(), description="of the estimator regression")
    training: Training | None = Field(
        None, description="training of the runs of interventions and regression; default as finetune"
    )
    threshold: float = Field(2.0, ge=0, description="number of standard errors from which an effect counts as real")
    importance: Importance | dict[str, Annotated[float, Field(ge=0)]] = Field(
        "proportional",
        description="weight of each category: its share of the pool, equal, its share of the validation rows by their "
        "prompts, or given weights",
    )
    effects_in: Literal["rows", "nats"] = Field(
        "rows",
        description="unit of effects: rows of the category that is helped, as in the paper, or loss, so that a "
        "category whose loss reacts more to rows of its own kind counts more",
    )
    max_shift: float = Field(0.1, ge=0, le=1, description="largest share of the rows that the mixture exchanges")
    floors: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field({}, description="least share of a category")
    caution: float = Field(0.0, ge=0, description="number of standard errors to subtract from effects")
    unknown: Literal["refuse", "zero"] = Field(
        "refuse", description="treatment of unknown effects: an error, or zero (1 on the category itself)"
    )

    @field_validator("importance")
    @classmethod
    def _check_importance(cls, value: Any) -> Any:
        if isinstance(value, dict) and abs(sum(value.values()) - 1) > 1e-6:
            raise ValueError(f"importance sums to {sum(value.values()):.6g}; its weights have to sum to 1")
        return value

    @field_validator("floors")
    @classmethod
    def _check_floors(cls, value: dict[str, float]) -> dict[str, float]:
        if sum(value.values()) > 1:
            raise ValueError(f"floors sum to {sum(value.values()):.4g}, above 1; lower some")
        return value

    @model_validator(mode="after")
    def _check_rows(self) -> "Mixture":
        if self.evaluation_rows >= self.least_rows:
            raise ValueError(
                f"evaluation_rows is {self.evaluation_rows} and least_rows {self.least_rows}; a category needs rows to "
                "train on besides those it is evaluated on"
            )
        return self

    @model_validator(mode="after")
    def _check_compare(self) -> "Mixture":
        if self.estimator in self.compare or len(set(self.compare)) < len(self.compare):
            raise ValueError(f"compare names {self.compare}; name each other estimator once, {self.estimator} not")
        return self

    @property
    def estimators(self) -> list[Estimator]:
        """All estimators to run, first the one that the mixture uses."""
        return [self.estimator, *self.compare]


class Curriculum(StrictModel):
    levels: Literal["dependencies"] | dict[str, LevelName] = Field(
        "dependencies",
        description="level of each category: from dependencies (interventions with removals), or given; categories "
        "not listed are intermediate",
    )
    held_back: int | None = Field(
        None,
        ge=0,
        description="rows that three_pass moves between its first and last pass; default a tenth, or fewer if there "
        "are not as many",
    )
