"""What a study found, as types: report.html, report.md, the terminal and summary.json all show these facts."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue

from instsel.choice.metrics import SelectionMetrics
from instsel.stats import Interval, Outcome, level_of, outcome
from instsel.study.results import InteractionResult, MixtureShares, PoolResult, RowCount, SplitCount


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
"""A number; None where it is unknown, since JSON has neither NaN nor infinity."""

Matrix = list[list[Number]]


class Facts(BaseModel):
    """A part of the facts. What a stage of another version says beyond it is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Results(Facts):
    """Held-out losses of the evaluated runs.

    Attributes:
        baseline: method that the others are compared with: random, or the base model.
        confidence: of the intervals; 1 - confidence is the level of the tests.
        losses: method -> target, and "mean" -> mean loss over held-out rows and over the runs of the method, nats.
        losses_by_run: run -> the same.
        differences: method -> target, and "mean" -> difference to the baseline with its interval, over training seeds
            and held-out rows.
        adjusted_p: the same -> two-sided p-value of the difference, adjusted by Holm over the methods of the target.
        heldout_rows: target -> held-out rows.
        runs: method -> its runs, one a seed.
        best: trained method with the lowest mean loss.
        not_told_apart: trained methods that are not significantly different from the best, itself the first.
        whole_pool: methods that selected the whole pool.
    """

    baseline: str
    confidence: float
    losses: dict[str, dict[str, float]] = {}
    losses_by_run: dict[str, dict[str, float]] = {}
    differences: dict[str, dict[str, Interval]] = {}
    adjusted_p: dict[str, dict[str, float]] = {}
    heldout_rows: dict[str, int] = {}
    runs: dict[str, list[str]] = {}
    best: str | None = None
    not_told_apart: list[str] = []
    whole_pool: list[str] = []

    @property
    def level(self) -> float:
        """The largest p-value that is significant."""
        return level_of(self.confidence)

    def outcome(self, method: str, target: str) -> Outcome:
        """Say whether a method is better than the baseline on a target, or in the "mean", by its adjusted p-value."""
        if method not in self.differences:
            return "undecided"
        # A summary of an earlier version has no p-values.
        p_value = self.adjusted_p.get(method, {}).get(target, 1.0)
        return outcome(self.differences[method][target].difference, p_value, self.level)


class SelectionFacts(Facts):
    """What a selection has: rows and tokens, and its rows by source and by task."""

    rows: int
    tokens: int
    sources: dict[str, int] = {}
    tasks: dict[str, int] = {}


class Composition(Facts):
    """Rows by one property: its values, and their counts in the pool and in each selection."""

    names: list[str]
    pool: list[int]
    selections: dict[str, list[int]]


class Lengths(RowCount):
    """Tokens of a row: mean and quartiles."""

    mean: float
    quartiles: list[float]


class Overlap(Facts):
    """Of the rows of each selection (first axis), the share that each other one has too."""

    names: list[str] = []
    shares: list[list[float]] = []


class Metrics(Facts):
    """What the selections serve, by the stored gradients: name of the attribution, and metrics of each selection."""

    attribution: str
    by_selection: dict[str, SelectionMetrics]


class SelectionInfluence(Facts):
    """Influence of one selection before and after normalisation: AID (columns,), THI and balance (targets,)."""

    aid_raw: list[Number]
    aid_normal: list[Number]
    thi_raw: list[int]
    thi_normal: list[int]
    balance: list[Number]


class InfluenceFacts(Facts):
    """Influence on targets: means of sources before and after normalisation (sources, targets), and of selections.

    `columns` has the target of each validation row, `attribution` the name of the stored influence.
    """

    attribution: str
    targets: list[str]
    sources: list[str]
    raw: Matrix
    normal: Matrix
    columns: list[str]
    selections: dict[str, SelectionInfluence]


class BudgetPart(Facts):
    """A part of a divided budget, named by the reason of its picks: sum of their scores, first and last score.

    `weight` gave it its share of the budget: a component's share of the variance, a task's gain; None in a mixture.
    """

    name: str
    rows: int
    tokens: int
    gain: Number
    first: Number
    last: Number
    weight: Number


class DividedBudget(Facts):
    """The parts into which a method divided its budget, in the order of their first picks."""

    method: str
    parts: list[BudgetPart]


class AgreementFacts(Facts):
    """Spearman's rank correlation of two estimates, see `mixture.interaction.Agreement`."""

    correlation: Number
    low: Number
    high: Number
    within: Number
    entries: int


class OrderFacts(Facts):
    """Order of a training: rows at the end of each window, and level -> its share of each window."""

    rows: list[int]
    shares: dict[str, list[float]]


class TrialFacts(Facts):
    """A trial of a search, see `search.outcome.Outcome`; `pareto`: no other has fewer tokens and a lower objective."""

    name: str
    point: dict[str, JsonValue]
    objective: Number
    tokens: int
    searched: dict[str, float] = {}
    judged: dict[str, float] = {}
    failed: str | None = None
    stopped: bool = False
    pareto: bool = False

    @property
    def ended(self) -> bool:
        """Whether it was trained to its end."""
        return self.objective is not None and not self.stopped


class SearchFacts(Facts):
    """A search: its trials, the best first, share of the objective's spread by key, share of rows searched by."""

    trials: list[TrialFacts]
    importance: dict[str, float] = {}
    share: float = 0.0


class Pick(Facts):
    """A row in a selection; the rank counts from 1."""

    selection: str
    rank: int
    score: Number
    reason: str | None


class ReadingRow(Facts):
    """A row to read; `helps` is its influence by target, in deviations of the pool above the pool's mean."""

    source: str
    task: str | None
    tokens: int
    shard: str
    helps: dict[str, Number] = {}
    picks: list[Pick] = []


class Reading(Facts):
    """Rows to read by id, and target -> ids of the picks that help it most. Their texts stay in the study's shards."""

    best: dict[str, list[str]] = {}
    rows: dict[str, ReadingRow] = {}


class RejectedRow(Facts):
    """An example of a rejected row; without a line it is a row of the pool, and the text is its id."""

    file: str
    line: int | None
    reason: str
    text: str


class RejectedRows(Facts):
    """Rejected rows: counts by reason, some examples, and row -> reason of those without a usable gradient."""

    counts: dict[str, int] = {}
    examples: list[RejectedRow] = []
    without_gradient: dict[str, str] = {}


class StageCost(Facts):
    """What the last run of a stage took, see `study.folder`; 0 tokens or bytes where the stage measures none."""

    seconds: float
    tokens: int = 0
    peak_memory_bytes: int = 0
    rows_reprocessed: int = 0


class Provenance(Facts):
    """Versions of packages, fingerprints of the stage *report* and of all stages before it, the study file as YAML."""

    versions: dict[str, str]
    fingerprint: str | None
    stages: dict[str, str]
    study_file: str


class StudyFacts(Results):
    """All facts of a study; those of `Results` stand beside the others. Parts that a study lacks are empty.

    Attributes:
        warnings: what does not fit together in the folder, a sentence each.
        missing: stages that the study file asks for and that are not finished.
        composition: by source, task, category and length.
        lengths: of the pool and of each selection; `budgets` and `mixtures` are by selection too.
        interaction: by estimator; `agreement` by pair of estimators.
        orders: by run, of trainings with an order of their own.
    """

    study: str
    path: str
    model: str
    dtype: str
    budget: int | float
    unit: Literal["rows", "tokens"]
    warnings: list[str] = []
    missing: list[str] = []
    pool: PoolResult | None = None
    targets: dict[str, dict[str, SplitCount]] = {}
    selections: dict[str, SelectionFacts] = {}
    composition: dict[str, Composition] = {}
    lengths: dict[str, Lengths] = {}
    overlap: Overlap = Overlap()
    metrics: Metrics | None = None
    influence: InfluenceFacts | None = None
    budgets: dict[str, DividedBudget] = {}
    categories: dict[str, RowCount] = {}
    interaction: dict[str, InteractionResult] = {}
    agreement: dict[str, AgreementFacts] = {}
    mixtures: dict[str, MixtureShares] = {}
    orders: dict[str, OrderFacts] = {}
    search: SearchFacts | None = None
    reading: Reading = Reading()
    rejected: RejectedRows = RejectedRows()
    cost: dict[str, StageCost] = {}
    provenance: Provenance
