"""The attribution matrix of gradient features: how much a step on pool row i helps validation example j.

`attribute` computes it in one call. A stage whose features are stored in shards calls its parts: `arrays.unit_rows`
once on the validation features, for the damped form `second_moment` on every shard and `precondition` once, then
`score_block` on every shard.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.linalg import solve

from instsel import arrays
from instsel.arrays import row_blocks, unit_rows


def attribute(
    train: Sequence[np.ndarray], validation: Sequence[np.ndarray], weights: Sequence[float] | np.ndarray,
    *, damping: float | None = None,
) -> np.ndarray:  # fmt: skip
    """Attribute validation examples to pool rows, summed over checkpoints (LESS, arXiv 2402.04333, Definition 3.1).

    Entry (i, j) is sum_c weights_c / sum(weights) * cos(train_c[i], validation_c[j]). With damping r the cosine is
    replaced by u^T (F + r trace(F)/d I)^-1 v, where u and v are the L2-normalised rows of checkpoint c and F is the
    mean of u u^T over the pool: directions that all pool rows have in common then count for less (the preconditioning
    of TRAK, arXiv 2303.14186, inside the sketch).

    Args:
        train: C arrays (n, d), any real dtype; memory-mapped arrays are read in blocks and never copied whole.
        validation: C arrays (m, d).
        weights: (C,) mean learning rate of each checkpoint's epoch; only ratios matter.
        damping: r above 0, or None for the cosine.

    Returns:
        float32 (n, m).

    Raises:
        ValueError: lengths, ranks or shapes that do not fit, NaN or infinity, a zero row (checkpoint and row are
            named: remove such rows first), weights that are negative or all zero, damping not above 0.
    """
    directions = [unit_rows(array, f"validation, checkpoint {c}") for c, array in enumerate(validation)]
    pool = _aligned(train, directions, weights)
    if damping is not None:
        _check_damping(damping)
        moments = (second_moment(array, f"train, checkpoint {c}") for c, array in enumerate(pool))
        rows = len(pool[0])
        if rows == 0:
            raise ValueError("train must have at least one row when damping is given, got none")
        directions = [precondition(v, moment / rows, damping) for v, moment in zip(directions, moments, strict=True)]
    return score_block(pool, directions, weights)


def score_block(
    train: Sequence[np.ndarray], directions: Sequence[np.ndarray], weights: Sequence[float] | np.ndarray,
    *, first_row: int = 0,
) -> np.ndarray:  # fmt: skip
    """Score some rows of the pool against prepared directions: the part of `attribute` that runs once per shard.

    Args:
        train: C arrays (rows, d), the same pool rows at each checkpoint; normalised here.
        directions: C arrays (m, d) from `arrays.unit_rows` or `precondition`; used as they are.
        weights: (C,) mean learning rates of all checkpoints.
        first_row: index in the pool of the first row, for error messages.

    Returns:
        float32 (rows, m).

    Raises:
        ValueError: as `attribute`.
    """
    pool = _aligned(train, directions, weights)
    mixing = np.asarray(weights, dtype=np.float64) / np.sum(weights, dtype=np.float64)
    scores = np.zeros((len(pool[0]), len(directions[0])), dtype=np.float32)
    for c, (array, direction) in enumerate(zip(pool, directions, strict=True)):
        scaled = np.ascontiguousarray(mixing[c] * direction.T, dtype=np.float32)
        for block in _feature_blocks(array):
            units = unit_rows(array[block], f"train, checkpoint {c}", first_row=first_row + block.start)
            scores[block] += units @ scaled
    return scores


def second_moment(
    train: np.ndarray, name: str = "train", *, first_row: int = 0, strip: slice = slice(None)
) -> np.ndarray:
    """Sum u u^T over the L2-normalised rows u of one checkpoint; the sums of all shards add up to the pool's.

    Args:
        train: (rows, d).
        name: what the array is, for error messages.
        first_row: index in the pool of the first row, for error messages.
        strip: rows of the sum, which is symmetric, to return, from the diagonal on; default all of it.

    Returns:
        float64 (d, d), or `sum[strip, strip.start :]`; the pool's sum divided by its number of rows is F.

    Raises:
        ValueError: as `arrays.unit_rows`.
    """
    array = arrays.matrix(name, train)
    start, stop, _ = strip.indices(array.shape[1])
    total = np.zeros((stop - start, array.shape[1] - start))
    for block in _feature_blocks(array):
        units = unit_rows(array[block], name, first_row=first_row + block.start)
        total += units[:, start:stop].T @ units[:, start:]
    return total


def precondition(directions: np.ndarray, fisher: np.ndarray, damping: float) -> np.ndarray:
    """Solve (F + r trace(F)/d I) x = v for every direction v.

    Args:
        directions: (m, d) from `arrays.unit_rows`.
        fisher: F, (d, d), symmetric: the mean of u u^T over the pool.
        damping: r, above 0; without it F may be singular.

    Returns:
        float32 (m, d), the directions for `score_block`.

    Raises:
        ValueError: shapes that do not fit, or damping not above 0.
    """
    _check_damping(damping)
    d = directions.shape[1]
    if fisher.shape != (d, d):
        raise ValueError(f"fisher must have shape {(d, d)}, as directions have {d} columns, got {fisher.shape}")
    damped = np.array(fisher, dtype=np.float64)
    damped.flat[:: d + 1] += damping * np.trace(damped) / d
    solved = solve(damped, directions.T.astype(np.float64), assume_a="pos", overwrite_a=True, overwrite_b=True)
    return np.ascontiguousarray(solved.T, dtype=np.float32)


def _feature_blocks(array: np.ndarray) -> list[slice]:
    return list(row_blocks(array.shape[0], array.shape[1] * np.dtype(np.float32).itemsize))


def _check_damping(damping: float) -> None:
    if not (math.isfinite(damping) and damping > 0):
        raise ValueError(f"damping must be a finite number above 0, got {damping}")


def _aligned(
    train: Sequence[np.ndarray], directions: Sequence[np.ndarray], weights: Sequence[float] | np.ndarray
) -> list[np.ndarray]:
    """Check that the three sequences fit each other and return the train arrays."""
    rates = np.asarray(weights)
    if rates.ndim != 1 or rates.dtype.kind not in "fiu":
        raise ValueError(f"weights must be one number per checkpoint, got {weights!r}")
    if not len(rates) == len(train) == len(directions) or len(rates) == 0:
        raise ValueError(
            "train, validation and weights must have one entry for each of at least one checkpoint, "
            f"got {len(train)}, {len(directions)} and {len(rates)}"
        )
    if not np.isfinite(rates).all() or (rates < 0).any() or rates.sum() <= 0:
        raise ValueError(f"weights must be finite, not negative and not all zero, got {rates.tolist()}")
    pool = [arrays.matrix(f"train, checkpoint {c}", array) for c, array in enumerate(train)]
    for c, (array, direction) in enumerate(zip(pool, directions, strict=True)):
        expected = (len(pool[0]), direction.shape[1])
        if array.shape != expected:
            raise ValueError(f"train, checkpoint {c}: expected shape {expected}, got {array.shape}")
        if len(direction) != len(directions[0]) or len(direction) == 0:
            rows = len(directions[0]) or "at least one"
            raise ValueError(f"validation, checkpoint {c}: expected {rows} rows, got {len(direction)}")
    return pool
