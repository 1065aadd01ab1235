"""Confidence intervals of differences between runs: paired percentile bootstrap (Efron & Tibshirani 1993, Ch. 13)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from instsel import arrays
from instsel.arrays import row_blocks

MEAN = "mean"
"""Key of the mean over targets; no target may have this name."""


@dataclass(frozen=True)
class Interval:
    """A difference of mean losses, method minus baseline (negative: the method is better), with its interval."""

    difference: float
    low: float
    high: float


def paired_bootstrap(
    method: Mapping[str, ArrayLike], baseline: Mapping[str, ArrayLike],
    *, samples: int, confidence: float, seed: int,
) -> dict[str, Interval]:  # fmt: skip
    """Compare two runs on the same held-out examples.

    The examples of a target are resampled with replacement, the two losses of an example together; targets are
    resampled independently. The resamples of a target depend only on its name and the seed, not on other targets.

    Args:
        method: losses (q,) by target, in nats per token; q may differ between targets.
        baseline: the same targets and the same examples at the same positions.
        samples: number of resamples.
        confidence: fraction of the resampled differences inside the interval, between 0 and 1.
        seed: of the bootstrap, any whole number from 0.

    Returns:
        Intervals by target in the order of `method`, then "mean": the unweighted mean of the targets' differences.

    Raises:
        ValueError: no targets, different targets, a target named "mean", losses of different lengths, none at all,
            of another rank or not finite; samples below 1, confidence outside (0, 1), a negative seed.
    """
    count = arrays.whole_number("samples", samples, least=1)
    entropy = arrays.whole_number("seed", seed)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    differences = _differences(method, baseline)
    resampled = {target: _resampled_means(values, target, count, entropy) for target, values in differences.items()}
    intervals = {t: _interval(float(values.mean()), resampled[t], confidence) for t, values in differences.items()}
    overall = float(np.mean([interval.difference for interval in intervals.values()]))
    intervals[MEAN] = _interval(overall, np.mean(list(resampled.values()), axis=0), confidence)
    return intervals


def _differences(method: Mapping[str, ArrayLike], baseline: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    if set(method) != set(baseline):
        raise ValueError(f"both runs must have the same targets, got {sorted(method)} and {sorted(baseline)}")
    if not method or MEAN in method:
        raise ValueError(f"expected at least one target and none named {MEAN!r}, got {sorted(method)}")
    differences = {}
    for target in method:
        losses = [np.asarray(run[target], dtype=np.float64) for run in (method, baseline)]
        if losses[0].shape != losses[1].shape or losses[0].ndim != 1 or losses[0].size == 0:
            raise ValueError(
                f"target {target}: expected one loss per example, of the same examples in both runs, "
                f"got shapes {losses[0].shape} and {losses[1].shape}"
            )
        differences[target] = losses[0] - losses[1]
        if not np.isfinite(differences[target]).all():
            raise ValueError(
                f"target {target}: losses must be finite, not so at example "
                f"{np.flatnonzero(~np.isfinite(differences[target]))[0]}"
            )
    return differences


def _resampled_means(values: np.ndarray, target: str, samples: int, seed: int) -> np.ndarray:
    """Return float64 (samples,): the mean of each resample of `values`."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(target.encode())))
    means = np.empty(samples)
    for block in row_blocks(samples, len(values) * values.itemsize):
        indices = generator.integers(len(values), size=(block.stop - block.start, len(values)))
        means[block] = values[indices].mean(axis=1)
    return means


def _interval(difference: float, resampled: np.ndarray, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(difference, float(low), float(high))
