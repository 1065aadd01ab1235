"""Effects of categories on each other: what an example of one category is worth for another.

The effect equivalence coefficient of Beyond IID: gamma[i, j] is the worth of an example of category i, in examples of
category j, for the performance on j. It is 1 if i is j, positive if i helps j, negative if it harms.
"""

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from instsel.mixture.experiments import clearly_above_zero, standard_error

Aggregate = Literal["ratio_of_means", "mean_of_ratios"]
SMALLEST = 1e-12


@dataclass(frozen=True)
class Interaction:
    """An estimate of gamma with standard errors.

    Attributes:
        gamma: float64 (K, K), gamma[added, evaluated]; NaN in the columns of categories for which it is unknown, 1 on
            the diagonal.
        error: float64 (K, K), standard errors; NaN where gamma is, or where they cannot be estimated.
        self_effect: float64 (K,), the denominators: the effect of a category's rows on the category itself.
        self_effect_error: float64 (K,), standard errors of `self_effect`; NaN where they cannot be estimated.
    """

    gamma: NDArray[np.float64]
    error: NDArray[np.float64]
    self_effect: NDArray[np.float64]
    self_effect_error: NDArray[np.float64]

    @property
    def unknown(self) -> NDArray[np.int64]:
        """Indices (int64) of the categories not clearly helped by their own rows, so that gamma has no denominator."""
        return np.flatnonzero(np.isnan(self.gamma).any(axis=0))


def effect_equivalence(
    base: ArrayLike, added: ArrayLike, *, aggregate: Aggregate = "ratio_of_means"
) -> NDArray[np.float64]:
    """Estimate gamma from the scores of a base model and of models trained with rows of one category added.

    Args:
        base: (J, Q), scores of the base model on the Q items of every category; higher is better.
        added: (I, J, Q), added[i, j] the scores on category j of the model trained with additional rows of category i,
            the same number for every category. The first J added categories are the evaluated ones.
        aggregate: "ratio_of_means" divides mean changes over the items (Beyond IID prints the mean before the numerator
            only; this is our interpretation); "mean_of_ratios" averages the items' ratios.

    Returns:
        Gamma, float64 (I, J), gamma[added, evaluated]. The diagonal is 1. A column whose denominator is 0 is NaN off
        the diagonal, and a warning names it.

    Raises:
        ValueError: the shapes do not match, a score is not finite, or another aggregate.
    """
    before, after = np.asarray(base, dtype=np.float64), np.asarray(added, dtype=np.float64)
    if before.ndim != 2 or after.ndim != 3 or after.shape[1:] != before.shape or len(after) < len(before):
        raise ValueError(
            f"base has shape {before.shape} and added {after.shape}; expected (J, Q) and (I, J, Q) with I at least J"
        )
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise ValueError("a score is NaN or infinite; remove that item from every model's scores")
    if aggregate not in ("ratio_of_means", "mean_of_ratios"):
        raise ValueError(f"aggregate is {aggregate!r}; choose ratio_of_means or mean_of_ratios")
    change = after - before
    if aggregate == "ratio_of_means":
        change = change.mean(axis=2, keepdims=True)
    self_effect = np.einsum("jjq->jq", change[: len(before)])
    known = (np.abs(self_effect) > SMALLEST).all(axis=1)
    if not known.all():
        _warn_unknown(np.flatnonzero(~known), "their own rows change nothing")
    ratios = change / np.where(known[:, None], self_effect, np.nan)
    gamma: NDArray[np.float64] = ratios.mean(axis=2)
    np.fill_diagonal(gamma, 1.0)
    return gamma


def from_effects(
    effects: ArrayLike,
    *,
    errors: ArrayLike | None = None,
    threshold: float = 2.0,
    freedom: float | None = None,
) -> Interaction:
    """Estimate gamma, with standard errors, from effects measured on several base samples.

    Gamma is the ratio of the mean effects over the samples. The paper takes the mean of the samples' ratios, which has
    no finite variance if a denominator can be near zero. Errors are those of the ratio by the delta method, with
    numerator and denominator of a sample paired.

    Args:
        effects: (B, K, K), effects[b, i, j] the improvement of category j after rows of category i were added to base
            sample b, as mean over j's items. NaN where a run failed.
        errors: (B, K, K), standard errors of the effects over the items; used where a single sample has an effect.
        threshold: a category counts as helped by its own rows if their mean effect is above this number of standard
            errors, see `experiments.clearly_above_zero`; else its column is unknown.
        freedom: degrees of freedom of `errors`; by default they are treated as exact.

    Returns:
        The estimate.

    Raises:
        ValueError: the shapes do not match, or an effect was measured on no sample.
    """
    measured = np.asarray(effects, dtype=np.float64)
    if measured.ndim != 3 or measured.shape[1] != measured.shape[2] or not len(measured):
        raise ValueError(f"effects have shape {measured.shape}; expected (samples, categories, categories)")
    noise = np.full_like(measured, np.nan) if errors is None else np.asarray(errors, dtype=np.float64)
    if noise.shape != measured.shape:
        raise ValueError(f"errors have shape {noise.shape}; expected that of the effects, {measured.shape}")
    samples = np.isfinite(measured).sum(axis=0)
    if not samples.all():
        added, evaluated = np.argwhere(samples == 0)[0]
        raise ValueError(f"the effect of category {added} on category {evaluated} was measured on no sample")
    mean = np.nanmean(measured, axis=0)
    self_effect = np.diagonal(mean).copy()
    self_effects = np.einsum("bjj->bj", measured)
    self_effect_error = standard_error(self_effects - self_effect, np.einsum("bjj->bj", noise))
    known = (self_effect > SMALLEST) & clearly_above_zero(
        self_effect, self_effect_error, np.diagonal(samples), threshold, freedom=freedom
    )
    if not known.all():
        _warn_unknown(np.flatnonzero(~known), "their own rows do not clearly help them")
    divisor = np.where(known, self_effect, np.nan)
    gamma = mean / divisor
    rest = measured - gamma * self_effects[:, None, :]
    spread = np.sqrt(noise**2 + gamma**2 * np.einsum("bjj->bj", noise)[:, None, :] ** 2)
    error = standard_error(rest, spread) / divisor
    np.fill_diagonal(gamma, 1.0)
    np.fill_diagonal(error, 0.0)
    return Interaction(gamma, error, self_effect, self_effect_error)


def from_gradients(directions: ArrayLike, gradients: ArrayLike, *, threshold: float = 2.0) -> Interaction:
    """Estimate gamma to first order, without training anything.

    A step along the mean Adam direction A_i of category i changes the loss on category j by its inner product with
    j's mean gradient g_j, so gamma[i, j] = <A_i, g_j> / <A_j, g_j>, summed over checkpoints weighted by their learning
    rates. This estimator is not in the paper. Standard errors come from a delete-one jackknife over groups of rows.

    Args:
        directions: (G, K, d), mean direction of each category's rows in each of G groups; checkpoints are concatenated
            along d, each multiplied by its learning rate.
        gradients: (G, K, d), mean gradients of other rows of the categories, in as many groups. They have to be other
            rows, as a row's gradient would otherwise count as help for its category.
        threshold: see `from_effects`.

    Returns:
        The estimate.

    Raises:
        ValueError: the shapes do not match or an entry is not finite.
    """
    steps, slopes = np.asarray(directions, dtype=np.float64), np.asarray(gradients, dtype=np.float64)
    if steps.ndim != 3 or steps.shape != slopes.shape or not steps.size:
        raise ValueError(
            f"directions have shape {steps.shape}, gradients {slopes.shape}; expected (groups, categories, d) of both"
        )
    if not (np.isfinite(steps).all() and np.isfinite(slopes).all()):
        raise ValueError("a direction or gradient is NaN or infinite; remove that row")
    groups = len(steps)
    whole = steps.mean(axis=0) @ slopes.mean(axis=0).T
    if groups == 1:
        return from_effects(whole[None], threshold=threshold)
    other_steps = (steps.sum(axis=0) - steps) / (groups - 1)
    other_slopes = (slopes.sum(axis=0) - slopes) / (groups - 1)
    # Pseudo-values: their mean is the jackknife's estimate, their spread its error.
    without = np.einsum("gid,gjd->gij", other_steps, other_slopes)
    return from_effects(groups * whole - (groups - 1) * without, threshold=threshold)


def from_subsets(included: ArrayLike, scores: ArrayLike, *, ridge: float = 1e-2, threshold: float = 2.0) -> Interaction:
    """Estimate gamma by regression on runs that were each trained on a random subset of the categories.

    The coefficients of a ridge regression of the scores on the included categories are their effects. With many
    categories this takes fewer runs than interventions, as every run informs about all of them. This estimator is not
    in the paper.

    Args:
        included: (R, K), rows of each category in a run, in units of one addition (0 or 1 for a category that is out
            or in).
        scores: (R, K), scores of the runs on the categories; higher is better.
        ridge: penalty, in units of the mean square of a centred column of `included`, times R.
        threshold: see `from_effects`.

    Returns:
        The estimate; errors are those of the coefficients under equal noise in all runs.

    Raises:
        ValueError: the shapes do not match, an entry is not finite, there are fewer runs than categories plus two, or a
            category is in all runs or in none.
    """
    design, observed = np.asarray(included, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if design.ndim != 2 or design.shape != observed.shape:
        raise ValueError(
            f"included has shape {design.shape}, scores {observed.shape}; expected (runs, categories) of both"
        )
    if not (np.isfinite(design).all() and np.isfinite(observed).all()):
        raise ValueError("an entry of included or scores is NaN or infinite; remove that run")
    runs, categories = design.shape
    if runs < categories + 2:
        raise ValueError(f"{runs} runs cannot tell {categories} categories apart; take {categories + 2} or more")
    centred = design - design.mean(axis=0)
    constant = np.flatnonzero((centred == 0).all(axis=0))
    if len(constant):
        raise ValueError(f"category {constant[0]} is the same in every run; draw other subsets")
    gram = centred.T @ centred
    penalty = ridge * np.trace(gram) / categories
    inverse = np.linalg.inv(gram + penalty * np.eye(categories))
    effects = inverse @ centred.T @ (observed - observed.mean(axis=0))
    rest = observed - observed.mean(axis=0) - centred @ effects
    freedom = runs - 1 - float(np.trace(inverse @ gram))
    noise = (rest**2).sum(axis=0) / freedom
    spread = np.sqrt(np.outer(np.diagonal(inverse @ gram @ inverse), noise))
    return from_effects(effects[None], errors=spread[None], threshold=threshold, freedom=freedom)


def _warn_unknown(categories: NDArray[np.int64], reason: str) -> None:
    listed = ", ".join(map(str, categories))
    warnings.warn(f"gamma is unknown for categories {listed}: {reason}", UserWarning, stacklevel=3)


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation of two estimates of gamma, over off-diagonal entries known to both.

    Attributes:
        correlation: over all entries; NaN if there are fewer than three or an estimate is constant.
        low, high: percentile interval over bootstrap samples of the added and of the evaluated categories.
        within: mean over evaluated categories of the correlation within their column; invariant to column scales.
        entries: number of entries compared.
    """

    correlation: float
    low: float
    high: float
    within: float
    entries: int


def agreement(
    first: ArrayLike, second: ArrayLike, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Agreement:
    """Compare two estimates of gamma.

    Entries of the same row or column are dependent, so the bootstrap resamples whole rows and, independently, whole
    columns.

    Args:
        first: (K, K), gamma[added, evaluated]; NaN where unknown.
        second: (K, K).
        samples: number of bootstrap samples.
        confidence: level of the interval.
        seed: of the bootstrap.

    Raises:
        ValueError: the shapes differ.
    """
    left, right = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 2 or left.shape[0] != left.shape[1]:
        raise ValueError(f"estimates have shapes {left.shape} and {right.shape}; expected (K, K) of both")
    size = len(left)
    usable = np.isfinite(left) & np.isfinite(right) & ~np.eye(size, dtype=bool)
    columns = [_correlation(left[usable[:, j], j], right[usable[:, j], j]) for j in range(size)]
    random = np.random.default_rng(seed)
    resampled = []
    for _ in range(samples):
        grid = np.ix_(random.integers(size, size=size), random.integers(size, size=size))
        kept = usable[grid]
        resampled.append(_correlation(left[grid][kept], right[grid][kept]))
    known = np.array([value for value in resampled if np.isfinite(value)])
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2]) if len(known) else (np.nan, np.nan)
    inside = [value for value in columns if np.isfinite(value)]
    return Agreement(
        _correlation(left[usable], right[usable]),
        float(low),
        float(high),
        float(np.mean(inside)) if inside else float("nan"),
        int(usable.sum()),
    )


def _correlation(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    if len(left) < 3 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return float("nan")
    return float(stats.spearmanr(left, right).statistic)
