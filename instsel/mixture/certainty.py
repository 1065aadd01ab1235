"""How sure a mean over few samples is."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


def standard_error(rest: ArrayLike, within: ArrayLike) -> NDArray[np.float64]:
    """Standard error of means over samples.

    Args:
        rest: (B, ...), what is left of each sample when the mean is taken away; NaN where there is no sample.
        within: (B, ...), standard error of each sample by itself; NaN where it is not known.

    Returns:
        (...), by the spread of the samples where there are two or more, else by that within the one; NaN without
            either.
    """
    left, inside = np.asarray(rest, dtype=np.float64), np.asarray(within, dtype=np.float64)
    samples = np.isfinite(left).sum(axis=0)
    spread = np.sqrt(np.nansum(left**2, axis=0) / np.maximum(samples - 1, 1) / np.maximum(samples, 1))
    usable = np.isfinite(left) & np.isfinite(inside)
    single = np.where(usable.any(axis=0), np.where(usable, inside, 0.0).sum(axis=0), np.nan)
    found: NDArray[np.float64] = np.where(samples >= 2, spread, single)
    return found


def clearly_above_zero(
    mean: ArrayLike, error: ArrayLike, samples: ArrayLike, threshold: float, *, freedom: float | None = None
) -> NDArray[np.bool_]:
    """Whether means are above 0 by as much as a normal variable would be at `threshold` standard errors.

    The spread of a few samples is itself unsure, so Student's distribution sets the bar: two standard errors are 13.97
    of those of two samples, 4.53 of three, 2.32 of ten. A single sample, whose error is of its many items, is taken as
    normal.

    Args:
        mean: (...).
        error: (...), standard errors; NaN where there is nothing to tell them by, with which any mean above 0 counts.
        samples: (...), samples behind each mean.
        threshold: in standard errors of a normal variable; at 0 any mean above 0 counts.
        freedom: degrees of freedom of the errors, where they are not those of the samples' spread.

    Returns:
        bool (...); False where the mean is NaN.
    """
    number = np.asarray(samples)
    bar = stats.t.isf(stats.norm.sf(threshold), np.maximum(number - 1, 1))
    alone = threshold if freedom is None else stats.t.isf(stats.norm.sf(threshold), freedom)
    bar = np.where(number >= 2, bar, alone)
    with np.errstate(invalid="ignore"):
        above: NDArray[np.bool_] = np.asarray(mean) > np.maximum(bar * np.nan_to_num(np.asarray(error)), 0)
    return above
