"""Which category needs which, from runs without one of them, and the levels that follow."""

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
    """Who needs whom.

    Attributes:
        strength: float64 (K, K), strength[i, j]: share of its score that category j loses without category i.
        error: float64 (K, K), standard errors.
        needs: bool (K, K), needs[i, j]: j clearly needs i. False on the diagonal.
        levels: int64 (K,), 0 preliminary (others need it, it needs none), 2 subsequent (it needs others, none needs
            it), 1 all else.
        cycles: sets of categories that need each other in a round, each sorted.
    """

    strength: NDArray[np.float64]
    error: NDArray[np.float64]
    needs: NDArray[np.bool_]
    levels: NDArray[np.int64]
    cycles: Sequence[Sequence[int]]


def dependencies(
    full: ArrayLike, without: ArrayLike, *, errors: ArrayLike | None = None, threshold: float = 2.0
) -> Dependency:
    """Find who needs whom from the scores of models that were trained without one category.

    Strength is (full[j] - without[i, j]) / |full[j]|. Beyond IID measures dependence by removals but leaves statistic
    and threshold open; this is ours: j needs i where the mean strength over the base samples is above `threshold`
    standard errors, counted as `certainty.clearly_above_zero` does.

    Args:
        full: (B, K), scores on every category of the model trained on base sample b; higher is better.
        without: (B, K, K), without[b, i, j] the score on j of the model trained on sample b less category i.
        errors: (B, K, K), standard errors of full - without over the items of j; used where there is one sample.
        threshold: in standard errors.

    Returns:
        The dependencies. An entry of NaN, where a run failed on all samples, is no dependence.

    Raises:
        ValueError: the shapes do not fit, or there is one sample and no errors.
    """
    whole, less = np.asarray(full, dtype=np.float64), np.asarray(without, dtype=np.float64)
    if whole.ndim != 2 or less.shape != (len(whole), whole.shape[1], whole.shape[1]) or not whole.size:
        raise ValueError(f"full has shape {whole.shape}, without {less.shape}; expected (B, K) and (B, K, K)")
    if len(whole) == 1 and errors is None:
        raise ValueError("one base sample tells no spread; give the errors over items, or more samples")
    scale = np.maximum(np.abs(whole), SMALLEST)[:, None, :]
    lost = (whole[:, None, :] - less) / scale
    samples = np.isfinite(lost).sum(axis=0)
    strength = np.where(samples > 0, np.nansum(lost, axis=0) / np.maximum(samples, 1), np.nan)
    inside = np.full_like(lost, np.nan) if errors is None else np.asarray(errors, dtype=np.float64) / scale
    error = standard_error(lost - strength, inside)
    # What one sample of several runs is left with may be chance.
    told = (samples >= 2) | np.isfinite(error)
    needs = clearly_above_zero(strength, error, samples, threshold) & told
    np.fill_diagonal(needs, False)
    return Dependency(strength, error, needs, levels_of(needs), cycles_of(needs))


def levels_of(needs: ArrayLike) -> NDArray[np.int64]:
    """Levels of categories, int64 (K,), from who needs whom, bool (K, K), needs[i, j] where j needs i."""
    graph = np.asarray(needs, dtype=bool)
    gives, takes = graph.any(axis=1), graph.any(axis=0)
    found = np.full(len(graph), INTERMEDIATE, dtype=np.int64)
    found[gives & ~takes] = PRELIMINARY
    found[takes & ~gives] = SUBSEQUENT
    return found


def cycles_of(needs: ArrayLike) -> list[list[int]]:
    """Sets of categories each of which needs every other, over others: strongly connected, two or more."""
    graph = np.asarray(needs, dtype=bool)
    number, member = connected_components(graph, directed=True, connection="strong")
    groups = [np.flatnonzero(member == group).tolist() for group in range(number)]
    return sorted(group for group in groups if len(group) > 1)
