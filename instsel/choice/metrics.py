"""Which targets a selection serves and how redundant it is: the metrics of every selection."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instsel.arrays import moments
from instsel.attribution.kernel import side_by_side
from instsel.io.matrix import Matrix
from instsel.selection.influence import aid, redundancy, thi
from instsel.study.reader import StudyReader


@dataclass(frozen=True)
class SelectionMetrics:
    """Metrics of one selection.

    Attributes:
        served: target -> rows whose influence is highest on it (THI of BIDS).
        influence: target -> mean influence of the selection, in deviations of the pool above the pool's mean: the mean
            over the target's validation rows of AID, standardised.
        lowest, highest: the validation row that the selection serves worst and best, in the same unit.
        redundancy: mean cosine of two gradients of the selection.
    """

    served: dict[str, int]
    influence: dict[str, float]
    lowest: float
    highest: float
    redundancy: float


def selection_metrics(
    selections: Mapping[str, Sequence[str]], matrix: Matrix, reader: StudyReader
) -> dict[str, SelectionMetrics]:
    """Compute metrics of some selections, all by the same influence.

    Args:
        selections: Name -> ids of the rows. Rows without a gradient do not count; selections of such rows alone are
            not in the result.
        matrix: Influence of the pool on validation rows.
        reader: The study, for its gradients.
    """
    ids_of_matrix = pa.array(matrix.ids, pa.string())
    tasks = np.asarray(matrix.columns["target"].to_pylist())
    mean, deviation = moments(matrix.values)
    metrics = {}
    for name, ids in selections.items():
        positions = pc.index_in(pa.array(ids, pa.string()), value_set=ids_of_matrix)
        rows = np.asarray(positions.drop_null().to_numpy(), dtype=np.int64)
        if not rows.size:
            continue
        standard = (aid(matrix.values, rows) - mean) / deviation
        labels = np.unique(tasks)
        served = thi(matrix.values, rows, tasks)
        metrics[name] = SelectionMetrics(
            served={str(label): int(count) for label, count in zip(labels, served, strict=True)},
            influence={str(label): float(standard[tasks == label].mean()) for label in labels},
            lowest=float(standard.min()),
            highest=float(standard.max()),
            redundancy=redundancy(_gradients(reader, set(ids))),
        )
    return metrics


def _gradients(reader: StudyReader, chosen: set[str]) -> Iterator[np.ndarray]:
    """Yield unit rows of a selection, a shard at a time, checkpoints side by side with the root of their weight."""
    shards = reader.index["shard"].take(pa.array(reader.positions(list(chosen))))
    for shard in sorted(shards.unique().to_pylist()):
        ids, checkpoints = reader.gradients.pool(shard)
        kept = [number for number, row in enumerate(ids) if row in chosen]
        if kept:
            yield side_by_side([rows[kept] for rows in checkpoints], reader.weights)
