"""What a gain in held-out loss consists of: the form of answers, or their content."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Answers = tuple[ArrayLike, ArrayLike]
"""Mean log-probabilities, nats: of the right answers (n,), and of others to the same prompts (n, K), NaN for none."""


def form_and_content(base: Answers, run: Answers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split what training gained on right answers into what it gained on any answer, and the rest.

    Form is the mean gain over an item's other answers: what lifts every answer to such prompts alike. Content is the
    gain of the right answer beyond that. They add up to the gain of the right answer.

    Args:
        base: mean log-probabilities under the model before training.
        run: the same answers under the trained model.

    Returns:
        Form and content, float64 (n,) each, nats per token.

    Raises:
        ValueError: shapes that do not match, infinity, NaN of a right answer, an answer that only one of the two has,
            an item without another answer (its index is named).
    """
    (right_before, others_before), (right_after, others_after) = _checked("base", base), _checked("run", run)
    if others_before.shape != others_after.shape:
        raise ValueError(
            f"base and run must have the same answers, got others of shapes {others_before.shape} and "
            f"{others_after.shape}"
        )
    known = ~np.isnan(others_before)
    differing = np.flatnonzero((known != ~np.isnan(others_after)).any(axis=1))
    if differing.size:
        raise ValueError(f"base and run must have the same other answers, not so at item {differing[0]}")
    counts = known.sum(axis=1)
    alone = np.flatnonzero(counts == 0)
    if alone.size:
        raise ValueError(f"item {alone[0]} has no other answer; leave it out")
    form = np.where(known, others_after - others_before, 0.0).sum(axis=1) / counts
    return form, right_after - right_before - form


def _checked(name: str, answers: Answers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    right, others = (np.asarray(part, dtype=np.float64) for part in answers)
    if right.ndim != 1 or others.ndim != 2 or len(right) != len(others):
        raise ValueError(
            f"{name} must be log-probabilities of right answers (n,) and of others (n, K), got shapes {right.shape} "
            f"and {others.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(right) | np.isinf(others).any(axis=1))
    if bad.size:
        raise ValueError(f"{name} must be finite, NaN only where there is no other answer; not so at item {bad[0]}")
    return right, others
