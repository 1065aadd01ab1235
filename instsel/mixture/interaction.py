"""How categories help or harm each other: what one example of a category is worth to another one.

Beyond IID calls it the effect equivalence coefficient: gamma[i, j] is what an example of category i is worth, in
examples of category j, for the performance on j. It is 1 where i is j, above 0 where i helps j, below where it harms.
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
    """Gamma and how sure it is.

    Attributes:
        gamma: float64 (K, K), gamma[added, evaluated]; NaN in the columns of categories of which it is unknown, 1 on
            the diagonal.
        error: float64 (K, K), standard errors; NaN where gamma is, or where there was nothing to tell them by.
        own: float64 (K,), the denominators: what the rows of a category do for that category itself.
        own_error: float64 (K,), standard errors of `own`; NaN where there was nothing to tell them by.
    """

    gamma: NDArray[np.float64]
    error: NDArray[np.float64]
    own: NDArray[np.float64]
    own_error: NDArray[np.float64]

    @property
    def unknown(self) -> NDArray[np.int64]:
        """Categories whose own rows do not clearly help them, so that nothing can be counted in them: int64."""
        return np.flatnonzero(np.isnan(self.gamma).any(axis=0))


def effect_equivalence(
    base: ArrayLike, added: ArrayLike, *, aggregate: Aggregate = "ratio_of_means"
) -> NDArray[np.float64]:
    """Estimate gamma from the scores of a base model and of models trained with one category's rows added.

    Args:
        base: (J, Q), scores of the base model on the Q items of every category; higher is better.
        added: (I, J, Q), added[i, j] the scores on category j of the model trained with rows of category i as well,
            of every category the same number of rows. The first J that are added are those that are evaluated.
        aggregate: "ratio_of_means" divides the mean change over the items (Beyond IID prints the mean before the
            numerator only, and we read it so); "mean_of_ratios" takes the mean of the items' ratios.

    Returns:
        Gamma, float64 (I, J), gamma[added, evaluated]. The diagonal is 1. A column whose denominator is 0 is NaN beside
        the diagonal, and a warning names it.

    Raises:
        ValueError: the shapes do not fit, a score is not finite, or the aggregate has another name.
    """
    before, after = np.asarray(base, dtype=np.float64), np.asarray(added, dtype=np.float64)
    if before.ndim != 2 or after.ndim != 3 or after.shape[1:] != before.shape or len(after) < len(before):
        raise ValueError(
            f"base has shape {before.shape} and added {after.shape}; expected (J, Q) and (I, J, Q) with I at least J"
        )
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise ValueError("a score is NaN or infinite; leave that item out of every model's scores")
    if aggregate not in ("ratio_of_means", "mean_of_ratios"):
        raise ValueError(f"aggregate is {aggregate!r}; choose ratio_of_means or mean_of_ratios")
    change = after - before
    if aggregate == "ratio_of_means":
        change = change.mean(axis=2, keepdims=True)
    own = np.einsum("jjq->jq", change[: len(before)])
    known = (np.abs(own) > SMALLEST).all(axis=1)
    if not known.all():
        _warn_unknown(np.flatnonzero(~known), "their own rows change nothing")
    ratios = change / np.where(known[:, None], own, np.nan)
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
    """Estimate gamma, with standard errors, from the effects that were measured on several base samples.

    Gamma is the ratio of the mean effects over the samples. The paper takes the mean of the samples' ratios; that has
    no finite variance as soon as one denominator can be near zero, so we do not. Errors are those of the ratio by the
    delta method, numerator and denominator of a sample taken together.

    Args:
        effects: (B, K, K), effects[b, i, j] how much better category j is done after rows of category i were added to
            base sample b; means over j's items. NaN where a run failed.
        errors: (B, K, K), standard errors of the effects over the items; used where a single sample has an effect.
        threshold: a category counts as helped by its own rows if their mean effect is above so many standard errors,
            see `certainty.clearly_above_zero`; else its column is unknown.
        freedom: degrees of freedom of `errors`; default so many that they are as good as known.

    Returns:
        The estimate.

    Raises:
        ValueError: the shapes do not fit, or an effect was measured on no sample.
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
    own = np.diagonal(mean).copy()
    own_each = np.einsum("bjj->bj", measured)
    own_error = standard_error(own_each - own, np.einsum("bjj->bj", noise))
    known = (own > SMALLEST) & clearly_above_zero(own, own_error, np.diagonal(samples), threshold, freedom=freedom)
    if not known.all():
        _warn_unknown(np.flatnonzero(~known), "their own rows do not clearly help them")
    divisor = np.where(known, own, np.nan)
    gamma = mean / divisor
    rest = measured - gamma * own_each[:, None, :]
    spread = np.sqrt(noise**2 + gamma**2 * np.einsum("bjj->bj", noise)[:, None, :] ** 2)
    error = standard_error(rest, spread) / divisor
    np.fill_diagonal(gamma, 1.0)
    np.fill_diagonal(error, 0.0)
    return Interaction(gamma, error, own, own_error)


def from_gradients(directions: ArrayLike, gradients: ArrayLike, *, threshold: float = 2.0) -> Interaction:
    """Estimate gamma to first order, without training anything.

    A step along the mean Adam direction of category i changes the loss on category j by its product with j's mean
    gradient, so gamma[i, j] = <A_i, g_j> / <A_j, g_j>, summed over checkpoints that carry their learning rates. This is
    ours. Standard errors are a delete-one jackknife over groups of rows.

    Args:
        directions: (G, K, d), mean direction of the category's rows in each of G groups of them; checkpoints side by
            side in d, each multiplied by its learning rate.
        gradients: (G, K, d), mean gradients of other rows of the categories, of as many groups. With rows of the
            directions themselves, a row's own gradient would count as help for its category.
        threshold: see `from_effects`.

    Returns:
        The estimate.

    Raises:
        ValueError: the shapes do not fit or an entry is not finite.
    """
    steps, slopes = np.asarray(directions, dtype=np.float64), np.asarray(gradients, dtype=np.float64)
    if steps.ndim != 3 or steps.shape != slopes.shape or not steps.size:
        raise ValueError(
            f"directions have shape {steps.shape}, gradients {slopes.shape}; expected (groups, categories, d) of both"
        )
    if not (np.isfinite(steps).all() and np.isfinite(slopes).all()):
        raise ValueError("a direction or gradient is NaN or infinite; leave that row out")
    groups = len(steps)
    whole = steps.mean(axis=0) @ slopes.mean(axis=0).T
    if groups == 1:
        return from_effects(whole[None], threshold=threshold)
    left = (steps.sum(axis=0) - steps) / (groups - 1)
    left_slopes = (slopes.sum(axis=0) - slopes) / (groups - 1)
    # Pseudo-values: their mean is the jackknife's estimate, their spread its error.
    without = np.einsum("gid,gjd->gij", left, left_slopes)
    return from_effects(groups * whole - (groups - 1) * without, threshold=threshold)


def from_subsets(included: ArrayLike, scores: ArrayLike, *, ridge: float = 1e-2, threshold: float = 2.0) -> Interaction:
    """Estimate gamma by regression on runs that were each trained on a random subset of the categories.

    A ridge regression of the scores on what was included has the effect of each category as its coefficient. Fewer runs
    than interventions for many categories, as every run tells of all of them. This is ours.

    Args:
        included: (R, K), how many rows of each category a run was trained on, in units of one addition (0 or 1 where a
            category is in or out).
        scores: (R, K), scores of the runs on the categories; higher is better.
        ridge: penalty, in units of the mean square of a centred column of `included`, times R.
        threshold: see `from_effects`.

    Returns:
        The estimate; errors are the coefficients' under equal noise in all runs.

    Raises:
        ValueError: the shapes do not fit, an entry is not finite, there are fewer than two runs more than categories,
            or a category is in all runs or in none.
    """
    design, seen = np.asarray(included, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if design.ndim != 2 or design.shape != seen.shape:
        raise ValueError(f"included has shape {design.shape}, scores {seen.shape}; expected (runs, categories) of both")
    if not (np.isfinite(design).all() and np.isfinite(seen).all()):
        raise ValueError("an entry of included or scores is NaN or infinite; leave that run out")
    runs, categories = design.shape
    if runs < categories + 2:
        raise ValueError(f"{runs} runs cannot tell {categories} categories apart; take {categories + 2} or more")
    centred = design - design.mean(axis=0)
    constant = np.flatnonzero((centred == 0).all(axis=0))
    if len(constant):
        raise ValueError(f"category {constant[0]} is in every run alike; draw other subsets")
    gram = centred.T @ centred
    penalty = ridge * np.trace(gram) / categories
    inverse = np.linalg.inv(gram + penalty * np.eye(categories))
    effects = inverse @ centred.T @ (seen - seen.mean(axis=0))
    rest = seen - seen.mean(axis=0) - centred @ effects
    freedom = runs - 1 - float(np.trace(inverse @ gram))
    noise = (rest**2).sum(axis=0) / freedom
    spread = np.sqrt(np.outer(np.diagonal(inverse @ gram @ inverse), noise))
    return from_effects(effects[None], errors=spread[None], threshold=threshold, freedom=freedom)


def _warn_unknown(places: NDArray[np.int64], why: str) -> None:
    named = ", ".join(map(str, places))
    warnings.warn(f"gamma is unknown for categories {named}: {why}", UserWarning, stacklevel=3)


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation of the entries beside the diagonal that both estimates know.

    Attributes:
        correlation: over all of them; NaN where there are fewer than three or one estimate has them all alike.
        low, high: percentile interval, over bootstrap draws of the categories that are added and of those evaluated.
        within: mean over evaluated categories of the correlation within their column, which no scale of a column moves.
        entries: entries compared.
    """

    correlation: float
    low: float
    high: float
    within: float
    entries: int


def agreement(
    one: ArrayLike, other: ArrayLike, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Agreement:
    """Compare two estimates of gamma.

    Entries of one row or column depend on each other, so whole rows and whole columns are drawn anew, each
    independently, for the interval.

    Args:
        one: (K, K), gamma[added, evaluated]; NaN where unknown.
        other: (K, K).
        samples: bootstrap draws.
        confidence: of the interval.
        seed: of the draws.

    Raises:
        ValueError: the shapes differ.
    """
    left, right = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 2 or left.shape[0] != left.shape[1]:
        raise ValueError(f"estimates have shapes {left.shape} and {right.shape}; expected (K, K) of both")
    size = len(left)
    usable = np.isfinite(left) & np.isfinite(right) & ~np.eye(size, dtype=bool)
    columns = [_correlation(left[usable[:, j], j], right[usable[:, j], j]) for j in range(size)]
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(samples):
        grid = np.ix_(random.integers(size, size=size), random.integers(size, size=size))
        kept = usable[grid]
        drawn.append(_correlation(left[grid][kept], right[grid][kept]))
    known = np.array([value for value in drawn if np.isfinite(value)])
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2]) if len(known) else (np.nan, np.nan)
    inside = [value for value in columns if np.isfinite(value)]
    return Agreement(
        _correlation(left[usable], right[usable]),
        float(low),
        float(high),
        float(np.mean(inside)) if inside else float("nan"),
        int(usable.sum()),
    )


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(stats.spearmanr(one, other).statistic)
