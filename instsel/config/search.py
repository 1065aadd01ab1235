"""The key `search` of a study file."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from instsel.strict import StrictModel

METHOD = "method"
ORDER = "order"
# Keys that a trial may change without affecting what trials share: prepared rows, features, embeddings, gamma.
KEYS = {
    "selection.budget",
    "mixture.estimator",
    "mixture.max_shift",
    "mixture.caution",
    "finetune.epochs",
    "finetune.learning_rate",
    "finetune.batch_size",
    "finetune.schedule",
    "finetune.warmup_ratio",
    "finetune.weight_decay",
}
INTEGER_KEYS = {"finetune.epochs", "finetune.batch_size"}


class Range(StrictModel):
    low: int | float = Field(description="lowest value")
    high: int | float = Field(description="highest value")
    log: bool = Field(False, description="sample uniformly in the logarithm")

    @model_validator(mode="after")
    def _check(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low is {self.low} and high {self.high}; low has to be below")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}; a range in the logarithm has to be above 0")
        return self


Choices = Annotated[list[Any], Field(min_length=1)]


Point = Mapping[str, JsonValue]
"""A point of the space that is searched: key -> value."""


class Objective(StrictModel):
    worst: float = Field(0.0, ge=0, le=1, description="weight of the worst target; the mean over targets has the rest")
    cost: float = Field(0.0, ge=0, description="penalty in nats per million tokens trained on")


class Search(StrictModel):
    space: dict[str, Choices | Range] = Field(
        min_length=1,
        description="search space: `method` (names among selection.methods), `order`, or a key of the study such "
        "as finetune.learning_rate; a list is a choice, {low, high, log} a range",
    )
    searcher: Literal["optuna", "random", "grid"] = Field("optuna", description="how the next trial is chosen")
    early_stopping: Literal["asha", "none"] = Field(
        "none", description="asha evaluates after every epoch and stops trials that are behind"
    )
    trials: int = Field(16, ge=1, description="maximum trials; a grid may not have more points")
    hours: float | None = Field(None, gt=0, description="maximum hours of a call; running trials are then stopped")
    tokens: int | None = Field(None, ge=1, description="maximum tokens trained on; running trials are then stopped")
    objective: Objective = Field(Objective(), description="objective to minimise, from held-out losses")
    guards: bool = Field(
        False,
        description="score the study's guards in every trial; one that is worse by more than a margin, with its whole "
        "interval, is out",
    )
    share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="fraction of each target's held-out rows used by the search; the rest evaluates the result",
    )
    seed: int = Field(0, ge=0, description="seed of the searcher")

    @field_validator("space")
    @classmethod
    def _check_space(cls, space: dict[str, Choices | Range]) -> dict[str, Choices | Range]:
        for key, values in space.items():
            if key not in {METHOD, ORDER, *KEYS}:
                known = ", ".join([METHOD, ORDER, *sorted(KEYS)])
                raise ValueError(
                    f"space: {key!r} cannot be searched, as trials share what depends on it; keys: {known}"
                )
            if key in (METHOD, ORDER, "mixture.estimator", "finetune.schedule") and isinstance(values, Range):
                raise ValueError(f"space: {key} is a choice; give a list")
            if key in INTEGER_KEYS and isinstance(values, Range) and not isinstance(values.low + values.high, int):
                raise ValueError(f"space: {key} is a whole number; write its low and high without a point")
        return space

    @model_validator(mode="after")
    def _check_grid(self) -> "Search":
        if self.searcher != "grid":
            return self
        ranges = [key for key, values in self.space.items() if isinstance(values, Range)]
        if ranges:
            raise ValueError(f"searcher: grid takes lists, and {ranges[0]} is a range; list its values")
        if self.points > self.trials:
            raise ValueError(f"the grid has {self.points} points, and trials is {self.trials}; raise it or list less")
        return self

    @property
    def points(self) -> int:
        """Number of trials of a search that no other limit ends."""
        if self.searcher != "grid":
            return self.trials
        return math.prod(len(values) for values in self.space.values() if isinstance(values, list))
