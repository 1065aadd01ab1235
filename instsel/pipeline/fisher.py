"""The Fisher matrices of damped influence: sums over the pool, by groups of shards and strips of the matrix."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load, save

from instsel.attribution.timing import seconds_to_solve
from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.gradients.features import GradientShards
from instsel.io.store import Folder
from instsel.study.estimates import FLOAT32, Counts, FunctionRun
from instsel.study.provenance import Provenance

# The most groups of shards of a checkpoint. Each leaves half of a d x d matrix on disk until all are added up, 0.15 GB
# at d = 8192.
GROUPS = 32
# Rows of a strip. The matrix is symmetric, so that a strip begins at the diagonal.
STRIP = 1024


@dataclass(frozen=True)
class _Piece:
    """What one task sums up: shards at a checkpoint, by its index, for a strip, and the file that it writes."""

    name: str
    checkpoint: int
    shards: list[str]
    start: int
    stop: int


def fisher_matrices(
    features: Folder, provenance: Provenance, dim: int, shards: list[str], out: Folder, terminal: Terminal
) -> Iterator[np.ndarray]:
    """Yield the mean of u u^T over the pool's unit rows u, float64 (d, d), one checkpoint after the other.

    Shards are put together in groups by their order, a task sums a group for a strip of the matrix, and the driver adds
    up the groups in order: the same numbers whatever the number of workers.

    Args:
        features: folder of stage *features*.
        provenance: checkpoints in order, and what their features depend on.
        dim: d.
        shards: of the pool, in order.
        out: folder for the sums of groups; those that are there are kept, and removed when they are added up.
        terminal: where progress is shown.
    """
    groups = [part.tolist() for part in np.array_split(np.array(shards), min(GROUPS, len(shards)))]
    for index, checkpoint in enumerate(provenance):
        # The longest strips first, so that all processes end at about the same time.
        pieces = [
            _Piece(f"{start}-{number:05d}.safetensors", index, group, start, min(dim, start + STRIP))
            for start in range(0, dim, STRIP)
            for number, group in enumerate(groups)
        ]
        folder = out / checkpoint
        missing = [piece for piece in pieces if not folder.exists(piece.name)]
        _sum_pieces(missing, features, provenance, folder, terminal)
        total, rows = np.zeros((dim, dim)), 0
        for piece in pieces:
            part = load(folder.read(piece.name))
            total[piece.start : piece.stop, piece.start :] += part["sum"]
            # Every strip has the rows of its group.
            rows += int(part["rows"][0]) if piece.start == 0 else 0
        folder.remove()
        for start in range(0, dim, STRIP):
            stop = min(dim, start + STRIP)
            total[stop:, start:stop] = total[start:stop, stop:].T
        total /= rows
        yield total


def count_fisher_tasks(dim: int, shards: int) -> int:
    """Return how many tasks can sum up the matrix of a checkpoint at once."""
    return min(GROUPS, shards) * len(range(0, dim, STRIP))


def fisher_disk(dim: int, shards: int) -> int:
    """Return the bytes of the sums of all groups at a checkpoint."""
    entries = sum((min(dim, start + STRIP) - start) * (dim - start) for start in range(0, dim, STRIP))
    return min(GROUPS, shards) * entries * FLOAT32


def fisher_memory(dim: int) -> tuple[int, int]:
    """Return the memory of a process that sums a strip, and of the driver that solves, beside the libraries.

    A process holds its sum and a shard's in float64 and a product in float32, and no more as it writes. The driver
    holds the matrix and, as it solves, three more in float64.
    """
    return 20 * min(dim, STRIP) * dim, 32 * dim**2


def fisher_seconds(config: StudyConfig, counts: Counts, timed: FunctionRun, columns: int) -> float:
    """Return the time of the Fisher matrices of all checkpoints, each summed in tasks and solved with."""
    checkpoints, dim = config.warmup.epochs, config.features.dim
    summing = timed.throughput(1 / timed.value.sum).seconds(
        checkpoints * counts.rows, count_fisher_tasks(dim, counts.shards)
    )
    return (summing or 0.0) + checkpoints * seconds_to_solve(dim, columns)


def _sum_pieces(
    missing: Sequence[_Piece], features: Folder, provenance: Provenance, out: Folder, terminal: Terminal
) -> None:
    if not missing:
        return
    import ray.data

    summing: Any = _sum_piece
    memory, _ = fisher_memory(max(piece.stop for piece in missing))
    items = [asdict(piece) for piece in missing]
    summed = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        summing, batch_size=1, batch_format="pyarrow", num_cpus=1, memory=memory, fn_args=(features, provenance, out)
    )
    with terminal.bar(f"fisher of {out.name}", len(missing), "parts") as bar:
        for _ in summed.iter_rows():
            bar.advance(1)


def _sum_piece(batch: pa.Table, features: Folder, provenance: Provenance, out: Folder) -> pa.Table:
    gradients = GradientShards(features, provenance)
    for item in batch.to_pylist():
        piece = _Piece(**item)
        total, rows = gradients.second_moment(piece.shards, piece.checkpoint, slice(piece.start, piece.stop))
        # float32 keeps seven digits of a sum that is added to others in float64.
        narrow = np.ascontiguousarray(total, dtype=np.float32)
        out.write(piece.name, save({"sum": narrow, "rows": np.array([rows], dtype=np.int64)}))
    return pa.table({"done": [len(batch)]})
