"""Influence and features from stored gradients, where a selection asks for what no stage has computed yet."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from instsel.arrays import unit_rows
from instsel.attribution.kernel import side_by_side, subtask_means, whitening
from instsel.attribution.scores import precondition, score_block
from instsel.io.matrix import Matrix, stack
from instsel.selection.base import AttributionSpec
from instsel.study.reader import StudyReader


def influence_matrix(reader: StudyReader, spec: AttributionSpec) -> Matrix:
    """Return the attribution matrix: as its stage stored it, or computed here, a shard at a time.

    Raises:
        InputError: the study has neither the matrix nor gradients.
    """
    return reader.keep(spec, lambda: reader.influence(spec) or _compute(reader, spec))


def _compute(reader: StudyReader, spec: AttributionSpec) -> Matrix:
    gradients, columns = reader.validation_gradients(spec.form)
    if spec.average == "gradients":
        gradients, columns = mean_gradients(gradients, columns)
    directions = [unit_rows(rows) for rows in gradients]
    if spec.damping is not None:
        fishers = _fisher_matrices(reader)
        directions = [precondition(v, next(fishers), spec.damping) for v in directions]
    ids, blocks = [], []
    for shard in reader.shards:
        rows, features = reader.gradients.pool(shard)
        ids += rows
        blocks.append(score_block(features, directions, reader.weights))
    return Matrix(ids, stack(blocks, len(ids), len(columns)), columns)


def kernel_matrix(
    reader: StudyReader, spec: AttributionSpec, targets: Sequence[str] | None
) -> tuple[Matrix, np.ndarray]:
    """Return features whose inner products are the influence: of the pool, (n, C d), of validation rows, (m, C d).

    With a damping they are whitened. The pool's are laid out once, in float32.

    Raises:
        InputError: the study has no gradients.
    """
    validation, columns = reader.validation_gradients(spec.form, targets)
    factors = None
    if spec.damping is not None:
        factors = [whitening(fisher, spec.damping) for fisher in _fisher_matrices(reader)]
    ids = [row for shard in reader.shards for row in reader.gradients.pool(shard)[0]]
    blocks = (side_by_side(reader.gradients.pool(shard)[1], reader.weights, factors) for shard in reader.shards)
    width = sum(rows.shape[1] for rows in validation)
    train = stack(blocks, len(ids), width)
    return Matrix(ids, train, columns), side_by_side(validation, reader.weights, factors)


def mean_gradients(gradients: list[np.ndarray], columns: pa.Table) -> tuple[list[np.ndarray], pa.Table]:
    """Return each subtask's mean gradient at every checkpoint, and the columns that these are."""
    means = [subtask_means(rows, np.asarray(columns["subtask"].to_pylist())) for rows in gradients]
    targets = dict(zip(columns["subtask"].to_pylist(), columns["target"].to_pylist(), strict=True))
    names = [str(name) for name in means[0][1]]
    table = pa.table({"id": names, "target": [targets[name] for name in names], "subtask": names})
    return [rows for rows, _ in means], table


def _fisher_matrices(reader: StudyReader) -> Iterator[np.ndarray]:
    """Yield the mean of u u^T over the pool's unit rows u, float64 (d, d), one checkpoint after the other."""
    for checkpoint in range(len(reader.gradients.provenance)):
        total, rows = reader.gradients.second_moment(reader.shards, checkpoint)
        yield total / rows
