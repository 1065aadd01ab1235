"""Stage *attribution*: every pool row scored against every column, and before that what fisher asks for."""

from instsel.config.study import StudyConfig
from instsel.gradients.features import Storage, bytes_per_row
from instsel.planner.facts import FLOAT32, ID_BYTES, MIB, VECTOR_FILE_BYTES, Facts, Fisher, StagePlan


def plan_attribution(study: StudyConfig, facts: Facts) -> StagePlan:
    """All ways to take influence that are not done. Each sums the Fisher matrices anew, and removes the sums."""
    checkpoints, dim, shards = study.warmup.epochs, study.features.dim, facts.shards
    ways = {name: facts.influences[name] for name in facts.todo["attribution"]}
    damped = [name for name, influence in ways.items() if influence.damping is not None]
    seconds, disk = 0.0, 0
    for name, influence in ways.items():
        seconds += facts.paces[f"attribution/{name}"].seconds(checkpoints * facts.rows, shards) or 0.0
        disk += facts.rows * (ID_BYTES + facts.columns(influence) * FLOAT32) + shards * VECTOR_FILE_BYTES
    pace = facts.paces[f"attribution/{next(iter(ways))}"]
    columns = max(facts.columns(influence) for influence in ways.values())
    largest = max(part.rows_per_shard for part in facts.pool)
    scorer = pace.memory + attribution_memory(checkpoints, largest, columns, dim, study.features.storage)
    processes = [(scorer, min(pace.together, shards))]
    if damped and facts.fisher:
        fisher = facts.fisher
        seconds += len(damped) * _fisher_seconds(fisher, checkpoints, facts.rows)
        disk += fisher.groups * dim**2 * FLOAT32
        summing, solving = fisher_memory(dim)
        processes += [(pace.memory + summing, min(fisher.pace.together, fisher.groups)), (pace.memory + solving, 1)]
    memory, together = max(processes, key=lambda needed: needed[0] * needed[1])
    return StagePlan(
        "attribution",
        rows=len(ways) * checkpoints * facts.rows,
        seconds=seconds,
        memory=memory,
        together=together,
        disk=disk,
    )


def attribution_memory(checkpoints: int, rows: int, columns: int, dim: int, storage: Storage) -> int:
    """Memory of a process that scores shards of `rows` rows, beside the libraries.

    It holds the directions of every checkpoint, one of them scaled and transposed, the shard's features, its scores,
    and blocks of the pool at work.
    """
    directions = (checkpoints + 1) * columns * dim * FLOAT32
    shard = checkpoints * rows * bytes_per_row(dim, storage) + rows * columns * FLOAT32
    return directions + shard + 3 * min(32 * MIB, rows * dim * FLOAT32)


def fisher_memory(dim: int) -> tuple[int, int]:
    """Memory of a process that sums a Fisher matrix, and of the driver that solves with one, beside the libraries.

    A process holds its sum and a shard's in float64 and a product in float32, and no more as it writes. The driver
    holds the matrix and, as it solves, three more in float64.
    """
    return 20 * dim**2, 32 * dim**2


def _fisher_seconds(fisher: Fisher, checkpoints: int, rows: int) -> float:
    return (fisher.pace.seconds(checkpoints * rows, fisher.groups) or 0.0) + checkpoints * fisher.solve
