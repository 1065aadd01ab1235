"""Contrast gradients: towards the right answer against others, in place of towards it at all."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from instsel import arrays


def contrast(
    features: np.ndarray, logprobs: ArrayLike, items: Sequence[Hashable] | np.ndarray
) -> NDArray[np.float32]:  # fmt: skip
    """Combine the gradients of an item's answers to that of -log(s_1 / sum_j s_j), where s_j = exp(logprobs_j).

    The first row of an item, in row order, is its right answer, the others are other answers. The gradient is
    f_1 - sum_j p_j f_j, with f_j the gradient of an answer's mean NLL and p the softmax of the item's logprobs. It is
    linear in f, so sketched gradients give the sketch of it.

    Args:
        features: (r, d), any real dtype, finite: plain gradients of the mean answer NLL, not normalised.
        logprobs: (r,) mean log-probability of the tokens of each answer, nats, finite.
        items: (r,) labels; those of one item need not stand together.

    Returns:
        float32 (m, d), a row for each of the m items in sorted order.

    Raises:
        ValueError: ranks or lengths that do not match, NaN or infinity, labels that do not sort, an item with a single
            answer.
    """
    rows = arrays.finite_matrix("features", features)
    values = np.asarray(logprobs)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "fiu"):
        raise ValueError(f"logprobs must be one real number a row, got shape {values.shape} of {values.dtype}")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(f"logprobs must be finite, got {values[bad[0]]} at row {bad[0]}")
    labels, positions = arrays.labels("items", items)
    if not len(rows) == len(values) == len(positions):
        raise ValueError(
            "features, logprobs and items must have one entry for each row, "
            f"got {len(rows)}, {len(values)} and {len(positions)}"
        )
    combined = np.empty((len(labels), rows.shape[1]), dtype=np.float32)
    # A stable sort keeps the right answer, the first row of its item, in front.
    members = np.split(np.argsort(positions, kind="stable"), np.cumsum(np.bincount(positions))[:-1])
    for index, label in enumerate(labels):
        answers = members[index]
        if len(answers) < 2:
            raise ValueError(f"item {label} has a single answer; a contrast needs another one beside the right one")
        weights = -softmax(values[answers].astype(np.float64))
        weights[0] += 1
        combined[index] = weights @ rows[answers].astype(np.float64)
    return combined
