"""What a study found, as types: report.html, report.md, the terminal and summary.json all show these facts."""

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, JsonValue

from instsel.choice.metrics import SelectionMetrics
from instsel.report.compared import AccuracyFacts, Compared, Facts, Results
from instsel.report.headroom import HeadroomFacts
from instsel.report.near_copies import NearCopyFacts
from instsel.stats import Interval
from instsel.study.results import InteractionResult, MixtureShares, PoolResult, RowCount, SplitCount


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
"""A number; None where it is unknown, since JSON has neither NaN nor infinity."""

Matrix = list[list[Number]]


class Gain(Facts):
    """What a method gained over the base model on the held-out rows that have other answers, nats a token.

    Attributes:
        items: rows.
        form: mean gain of their other answers.
        content: mean gain of their right answers beyond that.
    """

    items: int
    form: Interval
    content: Interval


class SelectionFacts(Facts):
    """What a selection has: rows and tokens, and its rows by source and by task.

    Attributes:
        quotas: target -> rows that it chose, where targets choose by themselves.
        training: what an epoch trains on, where it is more than the rows selected, each once.
        validation: of that, validation rows.
    """

    rows: int
    tokens: int
    sources: dict[str, int] = {}
    tasks: dict[str, int] = {}
    quotas: dict[str, int] | None = None
    training: RowCount | None = None
    validation: RowCount | None = None


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


class RejectedByFile(Facts):
    """The usable rows of a file, and how many others were rejected for which reason."""

    rows: int
    rejected: dict[str, int]


class RejectedRows(Facts):
    """Rejected rows.

    Attributes:
        counts: rows by reason.
        examples: some of them.
        files: the files with most of them, those without a usable row first.
        without_gradient: row -> reason of those without a usable gradient.
    """

    counts: dict[str, int] = {}
    examples: list[RejectedRow] = []
    files: dict[str, RejectedByFile] = {}
    without_gradient: dict[str, str] = {}


class StageCost(Facts):
    """What the last run of a stage took, see `study.folder`; 0 tokens or bytes where the stage measures none."""

    seconds: float
    tokens: int = 0
    peak_memory_bytes: int = 0
    rows_reprocessed: int = 0


class SpendingFacts(Facts):
    """What a method cost, on average over its runs, and what it reached.

    Attributes:
        selection: what its selection put through the model, in tokens of a training step; 0 where it reads nothing that
            the model says. What several selections share counts for each.
        training: tokens that were trained on, epochs counted.
        flops: of both; None where the size of the model is not known.
        selection_seconds, training_seconds: of the stages, which other processes may have shared.
        value: mean accuracy or, without one, mean held-out loss.
        pareto: no other method is better for less.
    """

    selection: float
    training: float
    flops: Number = None
    selection_seconds: float
    training_seconds: float
    value: float = 0.0
    pareto: bool = False

    @property
    def tokens(self) -> float:
        """Selection and training, in tokens of a training step."""
        return self.selection + self.training


class CurvePoint(Facts):
    """What a method reached at a budget.

    Attributes:
        arm: name that its runs are averaged under.
        amount: rows or tokens of an epoch, as the budget counts; the mean over its selections.
        value: mean accuracy or, without one, mean held-out loss.
        difference: to the baseline of the same budget, with its interval; None for the baseline itself.
        adjusted_p: p-value of the difference, adjusted by Holm over the methods of the budget.
        harmed: guards that are worse than the base model's by more than their margin.
    """

    arm: str
    amount: float
    value: float
    difference: Interval | None = None
    adjusted_p: float | None = None
    harmed: list[str] = []


class Provenance(Facts):
    """Versions of packages, fingerprints of the stage *report* and of all stages before it, the study file as YAML."""

    versions: dict[str, str]
    fingerprint: str | None
    stages: dict[str, str]
    study_file: str


class StudyFacts(Results):
    """All facts of a study; those of `Results` stand beside the others. Parts that a study lacks are empty.

    Attributes:
        accuracy: scores on benchmarks; None where nothing is scored.
        warnings: what does not fit together in the folder, a sentence each.
        missing: stages that the study file asks for and that are not finished.
        gains: method -> target, and "mean" -> form and content of its gain over the base model.
        headroom: by target, what training on rows that serve it moves.
        composition: by source, task, category and length.
        lengths: of the pool and of each selection; `budgets` and `mixtures` are by selection too.
        interaction: by estimator; `agreement` by pair of estimators.
        curve: method -> what it reached at each budget, smallest first; empty where the study has one. Comparisons of
            losses and scores, gains and guards are at the largest; costs and selections are of all.
        arms: method, with its budget where there are several -> its runs, one a seed, trained or not.
        spending: by method, what it cost beside what it reached.
        orders: by run, of trainings with an order of their own.
        near_copies: in the pool; None where they were not looked for.
    """

    study: str
    path: str
    model: str
    dtype: str
    budget: int | float | list[int | float]
    unit: Literal["rows", "tokens"]
    accuracy: AccuracyFacts | None = None
    warnings: list[str] = []
    missing: list[str] = []
    curve: dict[str, list[CurvePoint]] = {}
    arms: dict[str, list[str]] = {}
    gains: dict[str, dict[str, Gain]] = {}
    headroom: dict[str, HeadroomFacts] = {}
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
    near_copies: NearCopyFacts | None = None
    cost: dict[str, StageCost] = {}
    spending: dict[str, SpendingFacts] = {}
    provenance: Provenance

    @property
    def primary(self) -> Compared:
        """Methods compared by accuracy where targets are scored, else by held-out loss."""
        return self.accuracy if self.accuracy is not None and self.accuracy.scores else self
