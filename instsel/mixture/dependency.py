"""Dependencies between categories, from runs that leave one category out, and the levels that follow."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components

from instsel.mixture.experiments import clearly_above_zero, standard_error

PRELIMINARY, INTERMEDIATE, SUBSEQUENT = 0, 1, 2
LEVELS = ("preliminary", "intermediate", "subsequent")
SMALLEST = 1e-12


@dataclass(frozen=True)
class Dependency:
    """Dependencies between categories.

    Attributes:
        strength: float64 (K, K), strength[i, j]: fraction of its score that category j loses without category i.
        error: float64 (K, K), standard errors of strength.
        needs: bool (K, K), needs[i, j]: j clearly needs i. False on the diagonal.
        levels: int64 (K,), 0 preliminary (others need it, it needs none), 2 subsequent (it needs others, none needs
            it), 1 intermediate (all else).
        cycles: sets of categories that need each other, directly or through others; each sorted.
    """

    strength: NDArray[np.float64]
    error: NDArray[np.float64]
    needs: NDArray[np.bool_]
    levels: NDArray[np.int64]
    cycles: Sequence[Sequence[int]]


def dependencies(
    full: ArrayLike, without: ArrayLike, *, errors: ArrayLike | None = None, threshold: float = 2.0
) -> Dependency:
    """Find dependencies from the scores of models that were trained without one category.

    Strength is (full[j] - without[i, j]) / |full[j]|. Beyond IID measures dependence by removals but does not specify
    statistic and threshold; this choice is ours: j needs i if the mean strength over the base samples is above
    `threshold` standard errors, in the sense of `experiments.clearly_above_zero`.

    Args:
        full: (B, K), scores on every category of the model trained on base sample b; higher is better.
        without: (B, K, K), without[b, i, j] the score on j of the model trained on sample b minus category i.
        errors: (B, K, K), standard errors of full - without over the items of j; used if there is a single sample.
        threshold: in standard errors.

    Returns:
        The dependencies. An entry whose run failed on all samples is NaN and counts as no dependence.

    Raises:
        ValueError: the shapes do not match, or there is one sample and no errors.
    """
    whole, less = np.asarray(full, dtype=np.float64), np.asarray(without, dtype=np.float64)
    if whole.ndim != 2 or less.shape != (len(whole), whole.shape[1], whole.shape[1]) or not whole.size:
        raise ValueError(f"full has shape {whole.shape}, without {less.shape}; expected (B, K) and (B, K, K)")
    if len(whole) == 1 and errors is None:
        raise ValueError("a single base sample has no spread; pass the errors over items, or more samples")
    scale = np.maximum(np.abs(whole), SMALLEST)[:, None, :]
    lost = (whole[:, None, :] - less) / scale
    samples = np.isfinite(lost).sum(axis=0)
    strength = np.where(samples > 0, np.nansum(lost, axis=0) / np.maximum(samples, 1), np.nan)
    inside = np.full_like(lost, np.nan) if errors is None else np.asarray(errors, dtype=np.float64) / scale
    error = standard_error(lost - strength, inside)
    # An effect that only one of several samples measured may be chance.
    reliable = (samples >= 2) | np.isfinite(error)
    needs = clearly_above_zero(strength, error, samples, threshold) & reliable
    np.fill_diagonal(needs, False)
    return Dependency(strength, error, needs, levels_of(needs), cycles_of(needs))


def levels_of(needs: ArrayLike) -> NDArray[np.int64]:
    """Compute levels of categories, int64 (K,), from needs, bool (K, K), where needs[i, j] means that j needs i."""
    graph = np.asarray(needs, dtype=bool)
    gives, takes = graph.any(axis=1), graph.any(axis=0)
    levels = np.full(len(graph), INTERMEDIATE, dtype=np.int64)
    levels[gives & ~takes] = PRELIMINARY
    levels[takes & ~gives] = SUBSEQUENT
    return levels


def cycles_of(needs: ArrayLike) -> list[list[int]]:
    """Return the strongly connected components of two or more categories, each sorted."""
    graph = np.asarray(needs, dtype=bool)
    count, member = connected_components(graph, directed=True, connection="strong")
    groups = [np.flatnonzero(member == group).tolist() for group in range(count)]
    return sorted(group for group in groups if len(group) > 1)
