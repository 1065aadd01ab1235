"""Methods that are compared by a measure: held-out losses, accuracy, the probability of the right option, guards."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, JsonValue

from instsel.stats import MEAN, Interval, NonInferiority, Outcome, RankCorrelation, level_of, outcome


class Facts(BaseModel):
    """A part of the facts. What a stage of another version says beyond it is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Measure(NamedTuple):
    """A measure of runs, and how its values and their differences are shown: times a factor, with so many digits."""

    name: str
    items: str
    unit: str
    factor: float
    digits: int
    difference_digits: int
    higher_is_better: bool

    @property
    def best(self) -> Callable[[Iterable[float]], float]:
        """Take the best of some values."""
        return max if self.higher_is_better else min


class Compared(Facts, ABC):
    """Methods that are compared by a measure, target by target.

    Attributes:
        baseline: method that the others are compared with: random, or the base model.
        confidence: of the intervals; 1 - confidence is the level of the tests.
        differences: method -> target, and "mean" -> difference to the baseline with its interval, over training seeds
            and items.
        adjusted_p: the same -> two-sided p-value of the difference, adjusted by Holm over the methods of the target.
        runs: method -> its runs, one a seed.
        best: trained method with the best mean.
        not_told_apart: trained methods that are not significantly different from the best, itself the first.
        whole_pool: methods that selected the whole pool.
        cannot_move: targets that cannot tell methods apart, by their headroom; means and verdicts leave them out.
    """

    measure: ClassVar[Measure]

    baseline: str
    confidence: float
    differences: dict[str, dict[str, Interval]] = {}
    adjusted_p: dict[str, dict[str, float]] = {}
    runs: dict[str, list[str]] = {}
    best: str | None = None
    not_told_apart: list[str] = []
    whole_pool: list[str] = []
    cannot_move: list[str] = []

    @property
    def judged(self) -> list[str]:
        """Targets on which methods are called better or worse."""
        return [target for target in self.counts if target not in self.cannot_move]

    def label(self, target: str) -> str:
        """Return the target's name as tables have it: marked if it cannot move."""
        return f"{target} (cannot move)" if target in self.cannot_move else target

    @property
    @abstractmethod
    def values(self) -> dict[str, dict[str, float]]:
        """The measure by method and target, and "mean"."""

    @property
    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Items by target."""

    @property
    def by_mean(self) -> list[str]:
        """Methods, and the base model, by their mean, the best first."""
        return sorted(self.values, key=lambda name: self.values[name][MEAN], reverse=self.measure.higher_is_better)

    @property
    def best_values(self) -> dict[str, float]:
        """The best value by target, and of the mean."""
        return {key: self.measure.best(row[key] for row in self.values.values()) for key in (MEAN, *self.counts)}

    @property
    def level(self) -> float:
        """The largest p-value that is significant."""
        return level_of(self.confidence)

    def outcome(self, method: str, target: str) -> Outcome:
        """Say whether a method is better than the baseline on a target, or in the "mean", by its adjusted p-value."""
        if method not in self.differences or target in self.cannot_move or not self.judged:
            return "undecided"
        # A summary of an earlier version has no p-values.
        p_value = self.adjusted_p.get(method, {}).get(target, 1.0)
        difference = self.differences[method][target].difference
        return outcome(difference, p_value, self.level, higher_is_better=self.measure.higher_is_better)


class Results(Compared):
    """Held-out losses of the evaluated runs.

    Attributes:
        losses: method -> target, and "mean" -> mean loss over held-out rows and over the runs of the method, nats.
        losses_by_run: run -> the same.
        heldout_rows: target -> held-out rows.
        searched_share: share of the held-out rows that a search chose the study by, which are not among these.
    """

    measure: ClassVar[Measure] = Measure("held-out loss", "held-out rows", "nats", 1.0, 3, 2, higher_is_better=False)

    losses: dict[str, dict[str, float]] = {}
    losses_by_run: dict[str, dict[str, float]] = {}
    heldout_rows: dict[str, int] = {}
    searched_share: float | None = None

    @property
    def values(self) -> dict[str, dict[str, float]]:
        """Losses."""
        return self.losses

    @property
    def counts(self) -> dict[str, int]:
        """Held-out rows by target."""
        return self.heldout_rows


class Scores(Compared):
    """Mean scores of the runs on items of the targets.

    Attributes:
        scores: method -> target, and "mean" -> mean over items and over the runs of the method, 0 to 1.
        scores_by_run: run -> the same.
        items: target -> scored items.
    """

    scores: dict[str, dict[str, float]] = {}
    scores_by_run: dict[str, dict[str, float]] = {}
    items: dict[str, int] = {}

    @property
    def values(self) -> dict[str, dict[str, float]]:
        """Scores."""
        return self.scores

    @property
    def counts(self) -> dict[str, int]:
        """Items by target."""
        return self.items


class ProbabilityFacts(Scores):
    """Probability of the right option among all, which tells small models apart where their answers do not."""

    measure: ClassVar[Measure] = Measure(
        "probability of the right option", "test items", "points", 100.0, 1, 1, higher_is_better=True
    )


class GuardFacts(Facts):
    """What a method does to a guard, compared with the base model.

    Attributes:
        score: mean over items and runs, 0 to 1.
        difference: to the base model, with its interval.
        judgement: non-inferior where the whole interval lies above minus the margin, worse where it lies below.
    """

    score: float
    difference: Interval
    judgement: NonInferiority


class AccuracyFacts(Scores):
    """Accuracy, or another metric of a benchmark, of the runs on test items.

    Attributes:
        metrics: target or guard -> how it is scored: metric, task, version, worked examples.
        margins: guard -> how much of the score may be lost, 0 to 1.
        guards: method -> guard -> what it does to it.
        base_guards: guard -> score of the base model.
        unanswered: method -> target or guard -> share of the items in whose response the filter found no answer, where
            there are any.
        probability: of the right option, over targets of choices; None without any.
        loss_correlation: target, and "mean" -> Spearman's rank correlation of held-out loss and accuracy over trained
            runs; near -1 where the loss tells who is better.
    """

    measure: ClassVar[Measure] = Measure("accuracy", "test items", "points", 100.0, 1, 1, higher_is_better=True)

    metrics: dict[str, dict[str, JsonValue]] = {}
    margins: dict[str, float] = {}
    guards: dict[str, dict[str, GuardFacts]] = {}
    base_guards: dict[str, float] = {}
    unanswered: dict[str, dict[str, float]] = {}
    probability: ProbabilityFacts | None = None
    loss_correlation: dict[str, RankCorrelation] = {}
