"""What `instsel plan` adds up: rows and batches, rates that were measured, and what each stage says it will take.

Data and arithmetic alone: neither Ray nor torch is loaded. `instsel.planner` counts the rows and measures the rates,
and `Stage.estimate` makes numbers of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

import numpy as np
from pydantic import JsonValue

from instsel.config.study import StudyConfig
from instsel.config.training import Training
from instsel.io.store import Folder
from instsel.selection.base import AttributionSpec, Method
from instsel.training.schedule import steps_per_epoch

if TYPE_CHECKING:
    from instsel.study.graph import StageGraph

EXAMPLE = ("input_ids", "labels")
CHECKPOINT = "checkpoint"
"""Folder, below that of a probe, of a checkpoint with fresh LoRA matrices."""

MIB = 2**20
FLOAT32 = 4
TOKEN_BYTES = 8  # input id and label, int32
ID_BYTES = 20  # 16 hex digits and an offset, in Arrow


@dataclass(frozen=True)
class Batches:
    """Batches of a model: how many, and their tokens, padding included."""

    count: int = 0
    padded: int = 0

    def __add__(self, other: "Batches") -> "Batches":
        return Batches(self.count + other.count, self.padded + other.padded)


@dataclass(frozen=True, eq=False)
class RowSet:
    """Rows that are cut into shards of their own: a file of the pool, a shard, or a split of a target.

    Attributes:
        rows: usable rows.
        shards: files they are cut into; batches are formed within one.
        lengths: int64 (sampled,), tokens of every row, or of a sample of the rows.
        answers: int64 (sampled,), those of them that are answer tokens.
    """

    rows: int
    shards: int
    lengths: np.ndarray
    answers: np.ndarray

    @property
    def exact(self) -> bool:
        """Whether every row's length is known."""
        return len(self.lengths) == self.rows

    @property
    def tokens(self) -> int:
        """Tokens of all rows; an estimate unless `exact`."""
        if not self.rows:
            return 0
        return int(self.lengths.sum()) if self.exact else round(self.rows * float(self.lengths.mean()))

    @property
    def rows_per_shard(self) -> int:
        """Rows of the largest shard."""
        return -(-self.rows // self.shards)

    def prompts(self, most: int) -> "RowSet":
        """Return the same rows without their answers: at least one token each, and cut to `most`."""
        lengths = np.clip(self.lengths - self.answers, 1, most)
        return RowSet(self.rows, self.shards, lengths, np.zeros_like(lengths))

    def alone(self) -> "RowSet":
        """Return the same rows' answers, each row's as one text with the token before it."""
        return RowSet(self.rows, self.shards, self.answers + 1, self.answers)

    def batches(self, budget: int) -> Batches:
        """Count what `token_budget_batches` makes of the shards; a sample stands for the rows beside it."""
        from instsel.data.batching import token_budget_batches

        total = Batches()
        for lengths, times in self._shards():
            batches = token_budget_batches(lengths.tolist(), budget)
            padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
            total += Batches(times * len(batches), times * padded)
        return total

    def _shards(self) -> Iterator[tuple[np.ndarray, int]]:
        """Yield the lengths of a shard's rows, and how many shards have such rows."""
        if not self.rows:
            return
        if self.exact:
            yield from ((part, 1) for part in np.array_split(self.lengths, self.shards))
            return
        smaller, larger = divmod(self.rows, self.shards)
        for rows, times in ((smaller + 1, larger), (smaller, self.shards - larger)):
            if rows and times:
                # Evenly spread over the sample, over and over where the shard has more rows than it.
                yield self.lengths[np.arange(rows) * len(self.lengths) // rows], times


@dataclass(frozen=True)
class Counts:
    """What is counted of a study before it runs.

    Attributes:
        pool: the pool's rows.
        validation, heldout: the targets' rows, one set a target; targets without held-out rows have none.
        chosen: rows that a selection has, of several budgets the largest.
        subtasks: of all targets.
        groups: "source" and "task" -> rows of the pool that each has; a task is one of its source.
        chosen_bytes: a chosen row in the files of *select*, its tokens left out.
        read_seconds: of reading a row of the pool back.
        chosen_seconds: of writing a chosen row.
        prepare_seconds, prepare_bytes, prepare_memory: of stage *prepare*; 0 where it is done.
    """

    pool: Sequence[RowSet]
    validation: Sequence[RowSet]
    heldout: Sequence[RowSet]
    chosen: int
    subtasks: int = 1
    groups: Mapping[str, Sequence[float]] = field(default_factory=dict)
    chosen_bytes: float = 0.0
    read_seconds: float = 0.0
    chosen_seconds: float = 0.0
    prepare_seconds: float = 0.0
    prepare_bytes: int = 0
    prepare_memory: int = 0

    @property
    def rows(self) -> int:
        """Rows of the pool."""
        return sum(part.rows for part in self.pool)

    @property
    def shards(self) -> int:
        """Shards of the pool."""
        return sum(part.shards for part in self.pool)

    @property
    def mean_tokens(self) -> float:
        """Tokens of a row of the pool."""
        return sum(part.tokens for part in self.pool) / max(1, self.rows)

    def columns(self, spec: AttributionSpec) -> int:
        """Return what a pool row is scored against: validation rows, or where gradients are averaged subtasks."""
        return self.subtasks if spec.average == "gradients" else sum(part.rows for part in self.validation)


@dataclass(frozen=True)
class Throughput:
    """What was measured of a process of a stage, and how many of them the stage will have.

    Attributes:
        start: seconds until a process is through its first batch.
        speed: work a second of a process after that; None where memory ran out on the longest rows.
        memory: largest resident memory, bytes.
        processes: processes of the stage in the cluster.
        together: of those, how many run on the same machine.
        gpu_memory: most memory reserved on the GPU, bytes; 0 without a GPU.
        gpu_total: what the GPU has, bytes.
        gpu_share: part of a GPU that a process holds.
        token_budget: of batches, where it was lowered because memory ran out; else 0.
        timed: batches or steps behind `speed`, over all processes that ran at once.
        width: entries of the vector that the stage makes of a row; 0 where it makes none.
        scratch: bytes of temporary files.
        device: name of the GPU that it was measured on, or `cpu`.
        step_rows: of training: rows of a step that the process had.
        checkpoint_bytes: of training: an adapter with its moments.
    """

    start: float
    speed: float | None
    memory: int
    processes: int = 1
    together: int = 1
    gpu_memory: int = 0
    gpu_total: int = 0
    gpu_share: float = 1.0
    token_budget: int = 0
    timed: int = 0
    width: int = 0
    scratch: int = 0
    device: str = "cpu"
    step_rows: float = 0.0
    checkpoint_bytes: int = 0

    def seconds(self, work: float, items: int | None = None) -> float | None:
        """Return the time that some work takes, cut into `items` pieces that a process takes one after the other."""
        if not work:
            return 0.0
        if self.speed is None:
            return None
        processes = self.processes if items is None else max(1, min(items, self.processes))
        return self.start + work / (self.speed * processes)


class ItemResult(TypedDict):
    """What an actor says of an item when it has written its results.

    Attributes:
        tokens: that went through the model.
        peak_memory: largest resident memory of the actor, bytes.
        token_budget: of its batches now.
    """

    tokens: int
    peak_memory: int
    token_budget: int


@dataclass(frozen=True)
class ActorSpec:
    """Actors that make the results of items.

    Attributes:
        actor: class whose instances take (item, ids, examples), write the results of the item, and return an
            `ItemResult`.
        arguments: of the class, after the number of torch threads.
        budget_key: key of the study file that says how many padded tokens a batch has.
        budget: its value.
        columns: of the rows that an example has, beside the id.
    """

    actor: Any
    arguments: tuple[Any, ...]
    budget_key: str
    budget: int
    columns: Sequence[str] = EXAMPLE


def whole_rows(rows: RowSet) -> Sequence[RowSet]:
    """Return the rows as what goes through a model."""
    return [rows]


@dataclass(frozen=True)
class BatchProbe:
    """Batches that are timed in actors of a stage.

    Attributes:
        name: of the rate: that of the stage.
        dependencies: returns what of study file and model the rate depends on, JSON values.
        actors: the stage's own actors, which write below the folder that it is given.
        item: what an actor is called with.
        rows: whose rows are timed.
        model_inputs: rows -> what of them goes through the model.
        needs_checkpoint: whether there is to be a checkpoint with fresh LoRA matrices in `CHECKPOINT` below the
            folder when the actor is called. The actor has the base model in its attribute `base`.
    """

    name: str
    dependencies: Callable[[], Mapping[str, JsonValue]]
    actors: Callable[[Folder], ActorSpec]
    item: Mapping[str, str]
    rows: Literal["pool", "heldout"] = "pool"
    model_inputs: Callable[[RowSet], Sequence[RowSet]] = whole_rows
    needs_checkpoint: bool = False


@dataclass(frozen=True)
class TrainingProbe:
    """Steps of a training that are timed.

    Attributes:
        name: of the rate: that of the stage.
        dependencies: as of a `BatchProbe`.
        training: sizes of a step.
    """

    name: str
    dependencies: Callable[[], Mapping[str, JsonValue]]
    training: Training


@dataclass(frozen=True)
class FunctionRun:
    """What a function returned in a process of its own.

    Attributes:
        start: seconds until the process had loaded the function.
        value: what it returned.
        memory: resident memory of the process before, bytes.
        processes: CPUs of the cluster; together: of a machine.
    """

    start: float
    value: Any
    memory: int
    processes: int
    together: int

    def throughput(self, speed: float) -> Throughput:
        """Return the rate of such processes, one a CPU."""
        return Throughput(self.start, speed, self.memory, self.processes, self.together)


class Profiler(Protocol):
    """Measures what stages do, where they would do it; a rate that was measured before is returned as it was."""

    def batches(self, probe: BatchProbe) -> Throughput:
        """Return the rate of a stage's actors; its work is padded tokens."""

    def training(self, probe: TrainingProbe) -> Throughput:
        """Return the rate of a training worker; its work is tokens."""

    def run(self, function: Callable[..., Any], *arguments: Any) -> FunctionRun:
        """Run a function in a process of its own."""

    def selection(self, method: Method, columns: int, damping: float | None, width: int) -> Throughput:
        """Return the rate of a selection: the choice is its start, reading a row of the pool its work.

        Args:
            method: that selects.
            columns: that it scores rows against.
            damping: of the attribution that it goes by, where it has any.
            width: entries of the embeddings or hidden states that it goes by, where it does.
        """


@dataclass(frozen=True)
class PlanContext:
    """What a stage makes its estimate of.

    Attributes:
        config: the checked study file, its dtype settled.
        graph: every stage of the study, none of which the plan changes.
        counts: rows of the study.
        profiler: measures rates.
    """

    config: StudyConfig
    graph: "StageGraph"
    counts: Counts
    profiler: Profiler


@dataclass(frozen=True)
class StageEstimate:
    """What a stage still has to do and will take; None where it has no such figure.

    Attributes:
        name: the stage.
        rows, tokens, batches: that go through it, every pass counted.
        seconds: wall-clock time; None where it could not be measured.
        memory: largest resident memory of a process, bytes.
        together: processes of the stage that run on the same machine.
        gpu_memory, gpu_total: most memory on a GPU by all its processes, and what it has; 0 without a GPU.
        disk: bytes that it writes, those counted that it removes again.
        token_budget: of batches, where it was lowered because memory ran out when batches were tried; else 0.
        exhausted: whether memory ran out on the longest rows, and no time is known.
        done: whether nothing of the stage is left to do.
        memory_advice, disk_advice: what to change where it does not fit.
    """

    name: str
    rows: int | None = None
    tokens: int | None = None
    batches: int | None = None
    seconds: float | None = 0.0
    memory: int | None = None
    together: int = 1
    gpu_memory: int = 0
    gpu_total: int = 0
    disk: int = 0
    token_budget: int = 0
    exhausted: bool = False
    done: bool = False
    memory_advice: str = ""
    disk_advice: str = ""

    def with_processes(self, rate: Throughput, items: int) -> "StageEstimate":
        """Return it with the memory of processes that are as the one that was measured and share so many items."""
        on_a_gpu = max(1, min(rate.processes, int(1 / rate.gpu_share))) if rate.gpu_share else rate.together
        return replace(
            self,
            memory=rate.memory,
            together=min(rate.together, items),
            gpu_memory=on_a_gpu * rate.gpu_memory,
            gpu_total=rate.gpu_total,
            token_budget=rate.token_budget,
            exhausted=rate.speed is None,
        )


def batch_estimate(
    name: str, sets: Sequence[RowSet], budget: int, rate: Throughput, passes: int = 1, items: int | None = None
) -> StageEstimate:
    """Return what it takes to put sets of rows through a model in batches.

    Args:
        name: of the stage.
        sets: the rows.
        budget: padded tokens of a batch, unless memory made it lower.
        rate: of the stage's actors.
        passes: how often the rows go through it.
        items: pieces that the work is cut into; by default one a shard and pass.
    """
    batches = sum((part.batches(rate.token_budget or budget) for part in sets), Batches())
    items = passes * sum(part.shards for part in sets) if items is None else items
    estimate = StageEstimate(
        name,
        rows=passes * sum(part.rows for part in sets),
        tokens=passes * sum(part.tokens for part in sets),
        batches=passes * batches.count,
        seconds=rate.seconds(passes * batches.padded, items),
    )
    return estimate.with_processes(rate, items)


def training_estimate(context: PlanContext, probe: TrainingProbe, rows: Sequence[int]) -> StageEstimate:
    """Return what it takes to train, for each entry of `rows` on so many rows of the pool's mean length."""
    training, rate = probe.training, context.profiler.training(probe)
    tokens = sum(round(count * training.epochs * context.counts.mean_tokens) for count in rows)
    estimate = StageEstimate(
        probe.name,
        rows=sum(rows) * training.epochs,
        tokens=tokens,
        batches=training.epochs * sum(steps_per_epoch(count, training.batch_size) for count in rows),
        # Runs share their workers, which start once.
        seconds=rate.seconds(tokens),
        disk=len(rows) * training.epochs * rate.checkpoint_bytes,
        memory_advice=f"lower {probe.name}.micro_batch_size or resources.training_workers",
        disk_advice=f"lower {probe.name}.epochs or lora.rank",
    )
    return estimate.with_processes(rate, rate.processes)
