"""Influence and features from stored gradients, where a selection asks for what no stage has worked out yet."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from instsel.attribution.kernel import side_by_side, subtask_means, whitening
from instsel.attribution.scores import precondition, score_block, unit_rows
from instsel.io.matrix import Matrix, stack
from instsel.selection.methods import Influence
from instsel.study.reader import Inputs


def influence_matrix(inputs: Inputs, influence: Influence) -> Matrix:
    """The attribution matrix: as its stage stored it, else worked out here, a shard at a time."""
    return inputs.keep(influence, lambda: inputs.influence(influence) or _worked_out(inputs, influence))


def _worked_out(inputs: Inputs, influence: Influence) -> Matrix:
    columns = inputs.columns()
    gradients = inputs.gradients.validation(columns)
    if influence.average == "gradients":
        gradients, columns = mean_gradients(gradients, columns)
    directions = [unit_rows(rows) for rows in gradients]
    if influence.damping is not None:
        fishers = _fisher_matrices(inputs)
        directions = [precondition(v, next(fishers), influence.damping) for v in directions]
    ids, blocks = [], []
    for shard in inputs.shards:
        rows, features = inputs.gradients.pool(shard)
        ids += rows
        blocks.append(score_block(features, directions, inputs.weights))
    return Matrix(ids, stack(blocks, len(ids), len(columns)), columns)


def kernel_matrix(inputs: Inputs, influence: Influence, targets: Sequence[str] | None) -> tuple[Matrix, np.ndarray]:
    """Features whose inner products are the influence: of the pool, (n, C d), and of validation rows, (m, C d).

    With a damping they are whitened. The pool's are laid out once, in float32.
    """
    columns = inputs.columns(targets)
    validation = inputs.gradients.validation(columns)
    factors = None
    if influence.damping is not None:
        factors = [whitening(fisher, influence.damping) for fisher in _fisher_matrices(inputs)]
    ids = [row for shard in inputs.shards for row in inputs.gradients.pool(shard)[0]]
    blocks = (side_by_side(inputs.gradients.pool(shard)[1], inputs.weights, factors) for shard in inputs.shards)
    width = sum(rows.shape[1] for rows in validation)
    train = stack(blocks, len(ids), width)
    return inputs.narrow(Matrix(ids, train, columns)), side_by_side(validation, inputs.weights, factors)


def mean_gradients(gradients: list[np.ndarray], columns: pa.Table) -> tuple[list[np.ndarray], pa.Table]:
    """Each subtask's mean gradient at every checkpoint, and the columns that these are."""
    means = [subtask_means(rows, np.asarray(columns["subtask"].to_pylist())) for rows in gradients]
    targets = dict(zip(columns["subtask"].to_pylist(), columns["target"].to_pylist(), strict=True))
    names = [str(name) for name in means[0][1]]
    table = pa.table({"id": names, "target": [targets[name] for name in names], "subtask": names})
    return [rows for rows, _ in means], table


def _fisher_matrices(inputs: Inputs) -> Iterator[np.ndarray]:
    """The mean of u u^T over the pool's unit rows u, float64 (d, d), one checkpoint after the other."""
    for checkpoint in range(len(inputs.gradients.pins)):
        total, rows = inputs.gradients.second_moment(inputs.shards, checkpoint)
        yield total / rows
