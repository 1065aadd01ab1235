"""Features whose inner products are the influence, for methods that compare rows with each other.

The features of all checkpoints are concatenated, each scaled by the square root of its weight, so that x . v is the
weighted mean of cosines. With a damping they are whitened first: x . v is then the preconditioned product of
`attribution.attribute`.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy.linalg import solve_triangular

from instsel import arrays
from instsel.arrays import unit_rows


def side_by_side(
    checkpoints: Sequence[np.ndarray],
    weights: Sequence[float] | np.ndarray,
    factors: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """Concatenate the features of all checkpoints so that inner products of rows are their influence.

    For a pool row x and a validation row v, x . v = sum_c weights_c / sum(weights) * cos_c(x, v); with factors,
    u^T (F + r trace(F)/d I)^-1 v replaces the cosine.

    Args:
        checkpoints: C arrays (rows, d), the same rows at each checkpoint; normalised here.
        weights: (C,) mean learning rate of each checkpoint's epoch.
        factors: C arrays from `whitening`, or None for the cosine.

    Returns:
        float32 (rows, C d).

    Raises:
        ValueError: zero rows, NaN or infinity.
    """
    scales = np.sqrt(np.asarray(weights, dtype=np.float64) / np.sum(weights, dtype=np.float64))
    parts = []
    for c, (rows, scale) in enumerate(zip(checkpoints, scales, strict=True)):
        units = unit_rows(rows, f"checkpoint {c}")
        parts.append((units if factors is None else whiten(units, factors[c])) * np.float32(scale))
    return np.concatenate(parts, axis=1)


def whitening(fisher: np.ndarray, damping: float) -> np.ndarray:
    """Factorise F + r trace(F)/d I = L L^T.

    Args:
        fisher: F, (d, d), symmetric: the mean of u u^T over the pool's unit rows.
        damping: r, above 0.

    Returns:
        L, lower triangular, float64 (d, d).

    Raises:
        ValueError: damping is not above 0.
    """
    if not damping > 0:
        raise ValueError(f"damping must be a number above 0, got {damping}")
    damped = np.array(fisher, dtype=np.float64)
    damped.flat[:: len(damped) + 1] += damping * np.trace(damped) / len(damped)
    factor: np.ndarray = np.linalg.cholesky(damped)
    return factor


def whiten(units: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Map every row u to L^-1 u, so that inner products become those under the inverse of L L^T.

    Args:
        units: (rows, d).
        factor: L, from `whitening`.

    Returns:
        float32 (rows, d).
    """
    whitened: np.ndarray = solve_triangular(factor, units.T.astype(np.float64), lower=True)
    return np.ascontiguousarray(whitened.T, dtype=np.float32)


def subtask_means(
    validation: np.ndarray, subtasks: Sequence[Hashable] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Average the gradients of each subtask, as LESS (arXiv 2402.04333, Section 4.2) does before it takes the cosine.

    Args:
        validation: (m, d) gradients, not normalised: large ones count for more.
        subtasks: (m,) one label per row.

    Returns:
        float32 (J, d) means, and the sorted unique labels (J,).

    Raises:
        ValueError: ranks or lengths that do not match, labels that do not sort.
    """
    rows = arrays.matrix("validation", validation)
    labels, members = arrays.labels("subtasks", subtasks)
    if len(members) != len(rows):
        raise ValueError(f"subtasks must have one label for each of {len(rows)} rows, got {len(members)}")
    means = [rows[members == label].mean(axis=0, dtype=np.float64) for label in range(len(labels))]
    return np.stack(means).astype(np.float32), labels
