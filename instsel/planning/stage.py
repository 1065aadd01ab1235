"""One line of a plan: what a stage still has to do and will take."""

from dataclasses import dataclass
from typing import Any

from instsel.planning.facts import Pace

MIB = 2**20
FLOAT32 = 4
ID_BYTES = 20  # 16 hex digits and an offset, in Arrow
VECTOR_FILE_BYTES = 800  # schema and footer of an Arrow file of vectors


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


def needs(pace: Pace, items: int) -> dict[str, Any]:
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
