"""What the stages of a study leave beside their files, each a type."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Result(BaseModel):
    """What a stage leaves in its manifest: JSON values."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CategoryShares(Result):
    """One category of a mixture.

    Attributes:
        start: Share that the mixture started from.
        importance: How much the category counts.
        worth: What one of its rows is worth over all.
        weight: Its share in the mixture.
        rows: Rows of it to choose.
        capacity: Rows of it in the pool.
        floor: Least share that was asked for.
    """

    start: float
    importance: float
    worth: float
    weight: float
    rows: int
    capacity: int
    floor: float


class MixtureDuals(Result):
    """What the objective would gain if a constraint were one unit looser; `lower` and `upper` by category."""

    sum: float
    max_shift: float
    lower: dict[str, float]
    upper: dict[str, float]


class MixtureShares(Result):
    """A mixture and the linear program that it solves.

    Attributes:
        categories: By name, "other" last if there is one.
        objective: Of the program at the mixture's weights.
        start_objective: The same at the shares that it started from.
        duals: By constraint.
    """

    categories: dict[str, CategoryShares]
    objective: float
    start_objective: float
    duals: MixtureDuals


class SelectResult(Result):
    """What stage *select* chose. Details of a method that another package brings are kept beside these.

    Attributes:
        rows: Rows chosen.
        tokens: Their tokens, prompts counted.
        sources: Source -> rows of it.
        tasks: Source/task -> rows of it.
        mixture: The shares that the choice keeps to, if it keeps to some.
        task_gains: Of smart: task, in greedy order -> gain that its share of the budget is by.
        component_shares: Of g2is: component, from 1 -> its share of the variance.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    rows: int
    tokens: int
    sources: dict[str, int]
    tasks: dict[str, int]
    mixture: MixtureShares | None = None
    task_gains: dict[str, float] | None = None
    component_shares: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, without what this selection does not have."""
        return self.model_dump(exclude_none=True)
