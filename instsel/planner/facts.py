"""What a plan knows: counts, measured rates, a line of it for each stage, and numbers as people read them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from instsel.planner.rows import RowSet
from instsel.selection.base import AttributionSpec

MIB = 2**20
FLOAT32 = 4
ID_BYTES = 20  # 16 hex digits and an offset, in Arrow
VECTOR_FILE_BYTES = 800  # schema and footer of an Arrow file of vectors


SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
SPANS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))


def size(number: float) -> str:
    """Bytes in powers of ten: 4434804736 is "4.4 GB"."""
    for unit, name in SIZES:
        if number >= unit:
            value = number / unit
            return f"{value:.1f} {name}" if value < 99.95 else f"{value:.0f} {name}"
    return f"{number:.0f} B"


def span(seconds: float) -> str:
    """Seconds as "40 s", "4.2 min", "2.3 h" or "3.1 days"."""
    for unit, name in SPANS:
        if seconds >= 1.5 * unit:
            value = seconds / unit
            return f"{value:.1f} {name}" if value < 9.95 else f"{value:,.0f} {name}"
    return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"


@dataclass(frozen=True)
class Throughput:
    """What was measured of one process of a stage, and how many of them the stage will have.

    Attributes:
        start: seconds until a process is through its first batch.
        speed: work a second of one process after that; None where memory ran out on the longest rows.
        memory: largest resident memory, bytes.
        processes: processes of the stage in the cluster.
        together: of those, how many share a machine.
        gpu_memory: most memory reserved on the GPU, bytes; 0 without one.
        gpu_total: what the GPU has, bytes.
        gpu_share: part of a GPU that a process holds.
        token_budget: of batches, where it was lowered because memory ran out; else 0.
        timed: batches or steps behind `speed`, over all processes that ran at once.
        width: entries of the vector that the stage makes of a row; 0 where it makes none.
        scratch: bytes of temporary files.
        device: name of the GPU that it was measured on, or `cpu`.
        step_rows: of training: rows of a step that the process had.
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

    def seconds(self, work: float, items: int | None = None) -> float | None:
        """Time that some work takes, cut into `items` pieces of which one process takes one at a time."""
        if not work:
            return 0.0
        if self.speed is None:
            return None
        processes = self.processes if items is None else max(1, min(items, self.processes))
        return self.start + work / (self.speed * processes)


@dataclass(frozen=True)
class Fisher:
    """What the Fisher matrices of the pool take.

    Attributes:
        pace: of the processes that sum them; its work is a row at one checkpoint.
        groups: files of sums, one a process at a time.
        solve: seconds of one checkpoint's system.
    """

    pace: Throughput
    groups: int
    solve: float


@dataclass(frozen=True)
class Facts:
    """What is known of a study before it runs.

    Attributes:
        pool: the pool's rows.
        validation, heldout: the targets' rows, one set a target; targets without held-out rows have none.
        todo: stage -> its parts that are not done yet, in the order of the stages. The parts of `attribution` are ways
            to take influence, those of `select` selections, those of `finetune` and `evaluate` runs. A stage that the
            methods do not need is left out.
        chosen: rows that a selection has.
        subtasks: of all targets.
        categories: of the pool, where the study has a mixture; else 0.
        influences: part of `attribution` -> what it is.
        prepare_seconds, prepare_bytes, prepare_memory: of stage *prepare*, worked out where its rows are known.
        checkpoint_bytes: an adapter with its moments.
        chosen_bytes: a chosen row in the files of *select*, its tokens left out.
        paces: stage, or PART below `attribution/` and `select/` -> what was measured; what is done may be left out.
        fisher: what was measured of it, where an influence that is not done is preconditioned.
    """

    pool: Sequence[RowSet]
    validation: Sequence[RowSet]
    heldout: Sequence[RowSet]
    todo: Mapping[str, Sequence[str]]
    chosen: int
    subtasks: int = 1
    categories: int = 0
    influences: Mapping[str, AttributionSpec] = field(default_factory=dict)
    prepare_seconds: float = 0.0
    prepare_bytes: int = 0
    prepare_memory: int = 0
    checkpoint_bytes: int = 0
    chosen_bytes: float = 0.0
    paces: Mapping[str, Throughput] = field(default_factory=dict)
    fisher: Fisher | None = None

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

    def columns(self, influence: AttributionSpec) -> int:
        """What a pool row has an influence on: validation rows, or where gradients are averaged subtasks."""
        return self.subtasks if influence.average == "gradients" else sum(part.rows for part in self.validation)


@dataclass(frozen=True)
class StagePlan:
    """What a stage still has to do and will take; None where it has no such figure.

    Attributes:
        name: the stage.
        rows, tokens, batches: that go through it, every pass counted.
        seconds: wall-clock time; None where it could not be measured.
        memory: largest resident memory of one process, bytes.
        together: processes of the stage that share a machine.
        gpu_memory, gpu_total: most memory on a GPU by all processes that share it, and what it has; 0 without one.
        disk: bytes that it writes, those counted that it removes again.
        token_budget: of batches, where it was lowered because memory ran out when batches were tried; else 0.
        exhausted: whether memory ran out on the longest rows, and no time is known.
        done: whether nothing of the stage is left to do.
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


def needs(pace: Throughput, items: int) -> dict[str, Any]:
    """Memory and GPU memory of a stage of so many items, whose processes are as the one that was measured."""
    on_one_gpu = max(1, min(pace.processes, int(1 / pace.gpu_share))) if pace.gpu_share else pace.together
    return {
        "memory": pace.memory,
        "together": min(pace.together, items),
        "gpu_memory": on_one_gpu * pace.gpu_memory,
        "gpu_total": pace.gpu_total,
        "token_budget": pace.token_budget,
        "exhausted": pace.speed is None,
    }
