"""What a choice serves, and how much of it says the same: the figures that stand beside every selection."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from instsel.arrays import moments
from instsel.attribution.kernel import side_by_side
from instsel.io.matrix import Matrix
from instsel.selection.influence import aid, redundancy, thi
from instsel.study.reader import StudyReader


@dataclass(frozen=True)
class SelectionMetrics:
    """Figures of one choice.

    Attributes:
        served: target -> rows whose influence is highest on it (THI of BIDS).
        influence: target -> mean influence of the choice, in deviations of the pool above the pool's mean: the mean
            over the target's validation rows of AID, standardised.
        lowest, highest: the validation row that the choice serves worst and best, in the same unit.
        redundancy: mean cosine of two gradients of the choice.
    """

    served: dict[str, int]
    influence: dict[str, float]
    lowest: float
    highest: float
    redundancy: float


def figures(choices: Mapping[str, Sequence[str]], matrix: Matrix, reader: StudyReader) -> dict[str, SelectionMetrics]:
    """Figures of some choices, all by the same influence.

    Args:
        choices: name -> ids of the rows; rows without a gradient are left out, and choices of such rows alone.
        matrix: influence of the pool on validation rows.
        reader: the study, for its gradients.
    """
    place = {row: number for number, row in enumerate(matrix.ids)}
    tasks = np.asarray(matrix.columns["target"].to_pylist())
    mean, deviation = moments(matrix.values)
    found = {}
    for name, ids in choices.items():
        rows = np.array([place[row] for row in ids if row in place], dtype=np.int64)
        if not rows.size:
            continue
        standard = (aid(matrix.values, rows) - mean) / deviation
        labels = np.unique(tasks)
        served = thi(matrix.values, rows, tasks)
        found[name] = SelectionMetrics(
            served={str(label): int(count) for label, count in zip(labels, served, strict=True)},
            influence={str(label): float(standard[tasks == label].mean()) for label in labels},
            lowest=float(standard.min()),
            highest=float(standard.max()),
            redundancy=redundancy(_gradients(reader, set(ids))),
        )
    return found


def _gradients(reader: StudyReader, chosen: set[str]) -> Iterator[np.ndarray]:
    """Unit rows of the choice, a shard at a time, checkpoints side by side with the root of their weight."""
    shard_of = dict(zip(reader.index["id"].to_pylist(), reader.index["shard"].to_pylist(), strict=True))
    for shard in sorted({shard_of[row] for row in chosen}):
        ids, checkpoints = reader.gradients.pool(shard)
        kept = [number for number, row in enumerate(ids) if row in chosen]
        if kept:
            yield side_by_side([rows[kept] for rows in checkpoints], reader.weights)
