"""Differences between methods: paired bootstrap over seeds and items, p-values, and which methods are best.

The paired percentile bootstrap is that of Efron and Tibshirani (1993), *An Introduction to the Bootstrap*, Ch. 13.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

from instsel import arrays
from instsel.arrays import row_blocks

MEAN = "mean"
"""Key of the mean over targets; no target may have this name."""

LEAST_RUNS = 3
"""Runs from which on a rank correlation is computed."""

# Precedes the bytes of a method's name, so that a method and a target of one name have different random numbers.
_SEEDS = 256

Runs = Mapping[str, ArrayLike]
"""Target -> (runs, q): one value for each training run and item, such as a loss in nats, or 0 and 1."""

Outcome = Literal["better", "worse", "undecided"]
NonInferiority = Literal["non-inferior", "worse", "undecided"]


@dataclass(frozen=True)
class Interval:
    """A difference of means, method minus baseline, with its interval; of losses, negative is better."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """How differences are resampled.

    Attributes:
        samples: number of resamples.
        confidence: fraction of the resampled differences inside an interval; 1 - confidence is the level of tests.
        seed: any whole number from 0.

    Raises:
        ValueError: samples below 1, confidence outside (0, 1), a negative seed.
    """

    samples: int
    confidence: float
    seed: int

    def __post_init__(self) -> None:
        arrays.whole_number("samples", self.samples, least=1)
        arrays.whole_number("seed", self.seed)
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {self.confidence}")

    @property
    def level(self) -> float:
        """The largest p-value that is significant."""
        return level_of(self.confidence)

    def samples_needed(self, comparisons: int) -> int:
        """Return with how many resamples the first of so many comparisons can be significant after Holm at all."""
        # The smallest p-value is 2 / (samples + 1).
        return int(np.ceil(2 * comparisons / self.level)) - 1


@dataclass(frozen=True)
class Comparison:
    """A method compared with the baseline, by target and then "mean", the unweighted mean over targets.

    Attributes:
        intervals: differences of means with their intervals.
        p_values: two-sided, of no difference; for one comparison alone.
    """

    intervals: dict[str, Interval]
    p_values: dict[str, float]


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation over training runs; None where it is not defined."""

    correlation: float | None
    runs: int


def level_of(confidence: float) -> float:
    """Return the largest p-value that is significant at a confidence."""
    # 1 - 0.9 is slightly below 0.1 in floats.
    return round(1 - confidence, 12)


def compare(methods: Mapping[str, Runs], baseline: str, bootstrap: Bootstrap) -> dict[str, Comparison]:
    """Compare methods with one of them, on the same items.

    A resample draws the training runs of each method with replacement, for all targets at once, and then the items of
    each target with replacement, the same items for all runs. Runs of two methods are drawn independently, since their
    seeds are not paired. Every run has every item, so that this is the bootstrap of crossed factors (Owen 2007, *The
    pigeonhole bootstrap*, Annals of Applied Statistics 1). A method with a single run always has that one, and the
    interval then leaves out the variance between its training seeds. With R runs, the resampled variance between seeds
    is on average (R - 1) / R of the true one: with two or three runs the interval is still somewhat too narrow.

    The resamples of a target's items depend only on its name and the seed, those of a method's runs only on its name,
    the number of its runs and the seed. So a comparison stays the same whatever other targets and methods there are.

    The p-value inverts the percentile interval: twice the smaller share of resampled differences on one side of zero
    (Efron and Tibshirani 1993, Section 15.4), where both counts have one more so that no p-value is 0, as in Monte
    Carlo tests (Davison and Hinkley 1997, *Bootstrap Methods and their Application*, Section 4.2); at most 1.

    Args:
        methods: name -> target -> values (runs, q); q may differ between targets and `runs` between methods.
        baseline: name of the one that the others are compared with.
        bootstrap: resamples, confidence and seed.

    Returns:
        Comparisons by method in the order of `methods`, without the baseline; targets in the order of the method.

    Raises:
        ValueError: no such baseline, no targets, different targets, a target named "mean", values of different
            lengths, none at all, of another rank or not finite; a method with other runs from target to target.
    """
    values = _checked(methods, baseline)
    counts = {name: _run_counts(name, _runs(by_target), bootstrap) for name, by_target in values.items()}
    others = [name for name in values if name != baseline]
    resampled: dict[str, dict[str, NDArray[np.float64]]] = {name: {} for name in others}
    for target in values[baseline]:
        by_method = {name: by_target[target] for name, by_target in values.items()}
        for name, means in _resampled_differences(target, by_method, counts, baseline, bootstrap).items():
            resampled[name][target] = means
    return {name: _comparison(values[name], values[baseline], resampled[name], bootstrap) for name in others}


def paired_bootstrap(
    method: Mapping[str, ArrayLike], baseline: Mapping[str, ArrayLike],
    *, samples: int, confidence: float, seed: int,
) -> dict[str, Interval]:  # fmt: skip
    """Compare two runs on the same held-out examples; `compare` does so for methods of several runs.

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
    runs = {
        name: {target: np.asarray(values, dtype=np.float64)[None] for target, values in by_target.items()}
        for name, by_target in (("method", method), ("baseline", baseline))
    }
    return compare(runs, "baseline", Bootstrap(samples, confidence, seed))["method"].intervals


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjust p-values so that all that are at most a level can be called significant together.

    The chance that any of them is called so without a difference is then at most the level, whatever their dependence.
    Step-down: the smallest is multiplied by their number m, the next by m - 1, and none becomes smaller than one
    before it (Holm 1979, *A simple sequentially rejective multiple test procedure*, Scandinavian Journal of
    Statistics 6).

    Args:
        p_values: (m,), each from 0 to 1; may be empty.

    Returns:
        float64 (m,), at the same positions, at most 1.

    Raises:
        ValueError: another rank, or a value outside [0, 1].
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p_values must be a list of numbers from 0 to 1, got {values.tolist()}")
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def adjusted_p_values(comparisons: Mapping[str, Comparison]) -> dict[str, dict[str, float]]:
    """Adjust the p-values of each target, and of the mean, by Holm over the methods: method -> target -> p-value."""
    adjusted: dict[str, dict[str, float]] = {name: {} for name in comparisons}
    for target in next(iter(comparisons.values())).p_values if comparisons else ():
        column = holm([comparison.p_values[target] for comparison in comparisons.values()])
        for name, value in zip(adjusted, column.tolist(), strict=True):
            adjusted[name][target] = value
    return adjusted


def not_told_apart(
    methods: Mapping[str, Runs], bootstrap: Bootstrap, *, higher_is_better: bool = False
) -> list[str]:  # fmt: skip
    """Name the methods that may be best: that of the best mean, and all that are not significantly different from it.

    Each method is compared with the best by its mean over targets, and the p-values are adjusted by Holm over these
    comparisons. Which method is compared with all others is decided by the same data, so this is a cautious way to say
    who is best, not a confidence set with a proven coverage.

    Args:
        methods: name -> target -> values (runs, q), as for `compare`.
        bootstrap: resamples, confidence and seed; 1 - confidence is the level.
        higher_is_better: as for accuracies; losses are better where they are lower.

    Returns:
        Names by their mean, the best first; of equal means the first of `methods`. Empty without methods.

    Raises:
        ValueError: as `compare`.
    """
    if len(methods) <= 1:
        return list(methods)
    sign = -1 if higher_is_better else 1
    values = _checked(methods, next(iter(methods)))
    means = {name: sign * float(np.mean([_mean(runs) for runs in values[name].values()])) for name in values}
    order = sorted(means, key=lambda name: means[name])
    adjusted = adjusted_p_values(compare(values, order[0], bootstrap))
    return [name for name in order if name == order[0] or adjusted[name][MEAN] > bootstrap.level]


def outcome(difference: float, p_value: float, level: float, *, higher_is_better: bool = False) -> Outcome:
    """Say whether a method is better than the baseline.

    Args:
        difference: of means, method minus baseline.
        p_value: of no difference, adjusted where there are several.
        level: the largest p-value that is significant.
        higher_is_better: as for accuracies; losses are better where they are lower.
    """
    if p_value > level or difference == 0:
        return "undecided"
    return "better" if (difference > 0) == higher_is_better else "worse"


def non_inferiority(
    difference: float, low: float, high: float, margin: float, *, higher_is_better: bool = False
) -> NonInferiority:  # fmt: skip
    """Say whether a method is at most `margin` worse than the baseline.

    Args:
        difference: of means, method minus baseline, in the unit of the metric.
        low: lower end of its interval.
        high: upper end of its interval.
        margin: how much worse is acceptable, in the unit of the metric, from 0.
        higher_is_better: as for accuracies; losses are better where they are lower.

    Returns:
        "non-inferior" where the whole interval is within the margin, "worse" where the whole interval is beyond it,
        else "undecided". A method can be worse than the baseline and still be non-inferior.

    Raises:
        ValueError: a number that is not finite, ends in the wrong order, a negative margin.
    """
    if not np.isfinite([difference, low, high, margin]).all() or low > high or margin < 0:
        raise ValueError(
            f"expected finite numbers, low <= high and a margin of at least 0, got difference {difference}, "
            f"low {low}, high {high}, margin {margin}"
        )
    least, most = (-high, -low) if higher_is_better else (low, high)
    if most <= margin:
        return "non-inferior"
    return "worse" if least > margin else "undecided"


def rank_correlation(first: ArrayLike, second: ArrayLike) -> RankCorrelation:
    """Compute Spearman's rank correlation of two measures over the same training runs.

    Args:
        first: one number a run, (runs,).
        second: (runs,), the same runs at the same positions.

    Returns:
        The correlation with its number of runs; None with fewer than three runs, or where a measure is constant.

    Raises:
        ValueError: other ranks, different lengths, a number that is not finite.
    """
    left, right = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if left.ndim != 1 or left.shape != right.shape:
        raise ValueError(f"expected two numbers a run, got shapes {left.shape} and {right.shape}")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise ValueError(f"expected finite numbers, got {left.tolist()} and {right.tolist()}")
    if len(left) < LEAST_RUNS or np.ptp(left) == 0 or np.ptp(right) == 0:
        return RankCorrelation(None, len(left))
    return RankCorrelation(float(spearmanr(left, right).statistic), len(left))


def _checked(methods: Mapping[str, Runs], baseline: str) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return the values as float64 (runs, q), each method's targets in its own order; `compare` has the errors."""
    if baseline not in methods:
        raise ValueError(f"baseline must be one of {sorted(methods)}, got {baseline!r}")
    targets = methods[baseline]
    for name, by_target in methods.items():
        if set(by_target) != set(targets):
            raise ValueError(f"{name} and {baseline} must have the same targets, got {sorted(by_target)} and "
                             f"{sorted(targets)}")  # fmt: skip
    if not targets or MEAN in targets:
        raise ValueError(f"expected at least one target and none named {MEAN!r}, got {sorted(targets)}")
    values = {
        name: {target: np.asarray(runs, dtype=np.float64) for target, runs in by_target.items()}
        for name, by_target in methods.items()
    }
    for name, by_target in values.items():
        for target, runs in by_target.items():
            others = values[baseline][target]
            if runs.ndim != 2 or runs.shape[1:] != others.shape[1:] or runs.size == 0:
                raise ValueError(
                    f"target {target}: expected one value per item from each run, of the same items in {name} and "
                    f"{baseline}, got {len(runs)} runs of shapes {runs.shape[1:]} and {others.shape[1:]}"
                )
            if len(runs) != _runs(by_target):
                raise ValueError(f"{name} must have the same runs on all targets, got {len(runs)} on {target}")
            if not np.isfinite(runs).all():
                item = np.flatnonzero(~np.isfinite(runs).all(axis=0))[0]
                raise ValueError(f"target {target}: values of {name} must be finite, not so at example {item}")
    return values


def _runs(by_target: Mapping[str, NDArray[np.float64]]) -> int:
    return len(next(iter(by_target.values())))


def _mean(runs: NDArray[np.float64]) -> float:
    return float(runs.mean(axis=0).mean())


def _run_counts(name: str, runs: int, bootstrap: Bootstrap) -> NDArray[np.float64]:
    """Return float64 (samples, runs): how often each resample has each run of a method, `runs` in all."""
    if runs == 1:
        return np.ones((bootstrap.samples, 1))
    sequence = np.random.SeedSequence(bootstrap.seed, spawn_key=(_SEEDS, *name.encode()))
    indices = np.random.default_rng(sequence).integers(runs, size=(bootstrap.samples, runs))
    return np.stack([(indices == run).sum(axis=1) for run in range(runs)], axis=1).astype(np.float64)


def _resampled_differences(
    target: str,
    values: Mapping[str, NDArray[np.float64]],
    counts: Mapping[str, NDArray[np.float64]],
    baseline: str,
    bootstrap: Bootstrap,
) -> dict[str, NDArray[np.float64]]:
    """Return float64 (samples,) by method: the difference of means to the baseline in each resample of a target."""
    generator = np.random.default_rng(np.random.SeedSequence(bootstrap.seed, spawn_key=tuple(target.encode())))
    base = values[baseline]
    means = {name: np.empty(bootstrap.samples) for name in values if name != baseline}
    for block in row_blocks(bootstrap.samples, base.shape[1] * base.itemsize):
        items = generator.integers(base.shape[1], size=(block.stop - block.start, base.shape[1]))
        base_sums = _run_sums(counts[baseline][block], base)
        for name, resampled in means.items():
            runs = values[name]
            # Whole numbers of runs, divided at the end: values of 0 and 1 that are equal stay so to the last bit.
            differences = len(base) * _run_sums(counts[name][block], runs) - len(runs) * base_sums
            drawn = np.take_along_axis(differences, items, axis=1).mean(axis=1)
            resampled[block] = drawn / (len(runs) * len(base))
    return means


def _run_sums(counts: NDArray[np.float64], runs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum the values of an item over the runs of each resample: counts (block, runs) and (runs, q) give (block, q).

    One run after the other rather than as a matrix product, whose last digits would depend on the size of the block.
    """
    sums: NDArray[np.float64] = counts[:, :1] * runs[0]
    for run in range(1, len(runs)):
        sums += counts[:, run : run + 1] * runs[run]
    return sums


def _comparison(
    method: Mapping[str, NDArray[np.float64]],
    baseline: Mapping[str, NDArray[np.float64]],
    resampled: Mapping[str, NDArray[np.float64]],
    bootstrap: Bootstrap,
) -> Comparison:
    differences = {
        target: float((runs.mean(axis=0) - baseline[target].mean(axis=0)).mean()) for target, runs in method.items()
    }
    drawn = {target: resampled[target] for target in method}
    differences[MEAN] = float(np.mean(list(differences.values())))
    drawn[MEAN] = np.mean(list(drawn.values()), axis=0)
    return Comparison(
        {target: _interval(difference, drawn[target], bootstrap) for target, difference in differences.items()},
        {target: _p_value(drawn[target]) for target in differences},
    )


def _interval(difference: float, resampled: NDArray[np.float64], bootstrap: Bootstrap) -> Interval:
    tail = (1 - bootstrap.confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(difference, float(low), float(high))


def _p_value(resampled: NDArray[np.float64]) -> float:
    tail = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(resampled) + 1))
