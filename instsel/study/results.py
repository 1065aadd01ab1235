"""What the stages of a study leave beside their files, each a type."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

Rejected = dict[str, str]
"""Id of a row -> why it has no result."""


class Result(BaseModel):
    """What a stage leaves in its manifest: JSON values."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RowCount(Result):
    """Rows and their tokens."""

    rows: int
    tokens: int


class SplitCount(Result):
    """Rows of a target's split that are usable, and how many are rejected for which reason."""

    rows: int
    rejected: dict[str, int]


class FileCount(SplitCount):
    """Rows of a file that are usable, how many are rejected and why, and how many have a key that nothing reads."""

    unread: dict[str, int] = {}


class PoolResult(RowCount):
    """The pool: its usable rows, shards in order, rows of each source, and how many are rejected for which reason.

    `files` has the same by file, in the order of the study file; copies are counted where they are dropped.
    """

    shards: list[str]
    sources: dict[str, RowCount]
    rejected: dict[str, int]
    files: dict[str, FileCount] = {}


class NearDuplicatePair(Result):
    """A row that is nearly the same as an earlier one, and the earlier one: ids, sources, and Jaccard similarity."""

    id: str
    source: str | None
    kept_id: str
    kept_source: str | None
    similarity: float


class NearDuplicates(Result):
    """Rows of the pool that are near-copies of earlier ones.

    Attributes:
        threshold: least Jaccard similarity of two copies.
        dropped: whether they are rejected; the pool has them otherwise.
        groups: rows that have near-copies.
        rows: near-copies.
        sources: near-copies of each source.
        examples: some of them.
    """

    threshold: float
    dropped: bool
    groups: int
    rows: int
    sources: dict[str, int]
    examples: list[NearDuplicatePair]


class PrepareResult(Result):
    """What *prepare* leaves.

    Attributes:
        pool: its rows.
        targets: splits by target.
        tokenizer: digests of tokenizer and template.
        parameters: of the model.
        date: what chat templates that have today's date in them write in every stage, in the form 2026-01-31.
        near_duplicates: near-copies in the pool; None where they are not looked for.
    """

    pool: PoolResult
    targets: dict[str, dict[str, SplitCount]]
    tokenizer: dict[str, str]
    parameters: int | None = None
    date: str | None = None
    near_duplicates: NearDuplicates | None = None


class BenchmarkResult(Result):
    """The rows that a target or guard is scored on: how many, how many are rejected and why, version of the task."""

    items: int
    rejected: dict[str, int]
    version: str


class BenchmarksResult(Result):
    """What *benchmarks* leaves, by name of a target or guard."""

    tasks: dict[str, BenchmarkResult]


class Score(Result):
    """Mean scores of a model on the items of a target or guard.

    Attributes:
        items: that were scored.
        correct: mean of the metric, mostly 0 to 1.
        probability: mean probability of the right option; None where answers are generated.
        unanswered: items in whose response the filter found no answer.
    """

    items: int
    correct: float
    probability: float | None
    unanswered: int


class AccuracyResult(Result):
    """What *accuracy* leaves: scores by target or guard, and how each was scored."""

    scores: dict[str, Score]
    settings: dict[str, dict[str, JsonValue]]


class RejectedRows(Result):
    """What *embed*, *hidden_states* and *likelihood* leave: rows without a usable result."""

    rejected: Rejected


class AnswersResult(Result):
    """What *answers* leaves: items of each target that have another answer, and why the others have none."""

    items: dict[str, int]
    rejected: Rejected


class HeadroomRows(Result):
    """Rows that an adapter for a target was trained on (of the pool, or a fold's validation rows), and those scored."""

    trained: int
    by_sources: bool
    scored: int


class HeadroomResult(Result):
    """What *headroom* leaves, by target; the scores are in its table."""

    targets: dict[str, HeadroomRows]


class CategoriesResult(Result):
    """What *categorize* leaves.

    Attributes:
        categories: names of the measured ones, in order.
        sizes: rows and tokens of each, "other" included where there is one.
        merged: category -> its rows, which are too few to be measured and count to "other".
        untagged: reason -> rows that an endpoint gave no tag.
        validation: target -> category -> validation rows whose prompt is nearest to it; where targets weigh categories.
    """

    categories: list[str]
    sizes: dict[str, RowCount]
    merged: dict[str, int]
    untagged: dict[str, int]
    validation: dict[str, dict[str, int]]


class Checkpoint(Result):
    """What the epoch was that a checkpoint ends, see `training.schedule.EpochMetrics`."""

    epoch: int
    step: int
    loss: float
    learning_rate: float
    tokens: int
    seconds: float


class TrainingResult(Result):
    """What a training leaves: the folder of its checkpoints, and each of them by name."""

    run: str
    checkpoints: dict[str, Checkpoint]

    @property
    def tokens(self) -> int:
        """Tokens that were trained on, epochs counted."""
        return sum(checkpoint.tokens for checkpoint in self.checkpoints.values())

    @property
    def last(self) -> str:
        """Path of the last epoch's checkpoint below the stage's folder."""
        name = max(self.checkpoints, key=lambda each: self.checkpoints[each].epoch)
        return f"{self.run}/{name}"


class WarmupResult(TrainingResult):
    """What *warmup* leaves: a training on so many rows."""

    rows: int


class FeaturesResult(Result):
    """What *features* leaves: the warmup's checkpoints, what each one's shards depend on, rows without a gradient."""

    checkpoints: dict[str, Checkpoint]
    provenance: dict[str, dict[str, dict[str, JsonValue]]]
    rejected: Rejected


class AttributionResult(Result):
    """What *attribution* leaves: rows and columns of the matrix, weights of the checkpoints, and shards in order."""

    rows: int
    columns: int
    weights: list[float]
    shards: list[str]


Matrix = list[list[float | None]]
"""(K, K) as JSON, None for NaN."""


class Need(Result):
    """A category that another one needs."""

    category: str
    needs: str


class DependencyResult(Result):
    """Which category needs which, by removals: strengths, standard errors, levels of a curriculum, and cycles."""

    strength: Matrix
    error: Matrix
    needs: list[Need]
    levels: dict[str, Literal["preliminary", "intermediate", "subsequent"]]
    cycles: list[list[str]]


class InteractionResult(Result):
    """What *interaction* leaves: how categories help or harm each other, by one estimator.

    Attributes:
        categories: in the order of the matrices.
        gamma: (K, K), what one row of the first is worth in rows of the second.
        error: (K, K), standard errors.
        self_effect: (K,), what rows of a category do for it.
        self_effect_error: (K,), standard errors.
        unknown: categories whose own rows do not clearly help them.
        dependency: where removals were trained.
        runs: trainings behind it.
        failed: of these, those that diverged.
    """

    categories: list[str]
    gamma: Matrix
    error: Matrix
    self_effect: list[float | None]
    self_effect_error: list[float | None]
    unknown: list[str]
    dependency: DependencyResult | None = None
    runs: int | None = None
    failed: list[str] | None = None


class CategoryRunResult(Result):
    """What one training behind *interaction* leaves: its checkpoints, or why it diverged."""

    checkpoints: dict[str, Checkpoint] | None = None
    failed: str | None = None


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


class SelectResult(RowCount):
    """What stage *select* chose. Details of a method that another package brings are kept beside these.

    Attributes:
        rows: Rows chosen.
        tokens: Their tokens, prompts counted.
        sources: Source -> rows of it.
        tasks: Source/task -> rows of it.
        mixture: The shares that the choice keeps to, if it keeps to some.
        task_gains: Of smart: task, in greedy order -> gain that its share of the budget is by.
        component_shares: Of g2is: component, from 1 -> its share of the variance.
        quotas: Target -> rows that it chose, where targets choose by themselves.
        spent: Of random with `extra_for`: stage -> what the other selection took of it, in tokens of a training step.
        training: What an epoch trains on, where it is more than the rows chosen, each once.
        validation: Of that, validation rows.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    sources: dict[str, int]
    tasks: dict[str, int]
    mixture: MixtureShares | None = None
    task_gains: dict[str, float] | None = None
    component_shares: dict[str, float] | None = None
    quotas: dict[str, int] | None = None
    spent: dict[str, float] | None = None
    training: RowCount | None = None
    validation: RowCount | None = None

    @property
    def trained(self) -> RowCount:
        """What an epoch trains on."""
        return self.training or RowCount(rows=self.rows, tokens=self.tokens)

    def to_dict(self) -> dict[str, JsonValue]:
        """Return JSON values, without what this selection does not have."""
        return self.model_dump(exclude_none=True)


class EvaluateResult(Result):
    """What *evaluate* leaves: mean held-out loss of each target, nats."""

    losses: dict[str, float]


class ReportResult(Result):
    """What *report* leaves: files alone."""
