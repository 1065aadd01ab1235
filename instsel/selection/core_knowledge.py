"""What G2IS aims at: the principal components of the validation gradients, and each one's part of the budget."""

from typing import Literal

import numpy as np
from sklearn.decomposition import PCA

from instsel import checks
from instsel.selection.directions import nonzero_rows

Sign = Literal["release", "align"]

# Below this share of the rows' mean square the deviations are rounding errors of float32 features.
_NO_VARIANCE = 1e-12
_ROUNDING = 1e-9


def core_knowledge(
    validation: np.ndarray, *, explained_variance: float = 0.5, sign: Sign = "release"
) -> tuple[np.ndarray, np.ndarray]:
    """Find the directions that explain the validation gradients (G2IS, arXiv 2502.11062, as its release does it).

    They are the leading components of scikit-learn's PCA, mean-centred, as many as reach the share of the variance
    that is asked for. One row, or rows that are all the same, have no variance: then the direction of their mean is
    the only one (the release has no answer there).

    Args:
        validation: (m, d), any real dtype, gradients as they are; zero rows are left out with a warning.
        explained_variance: above 0, at most 1.
        sign: "release" keeps the signs that scikit-learn gives, so that a component may point away from what the
            validation rows have in common. "align" turns each component towards the mean validation gradient, and
            leaves those at right angles to it.

    Returns:
        Components float64 (q, d), of length 1, by falling variance; their shares of the variance that the q explain
        together, float64 (q,), which sum to 1.

    Raises:
        ValueError: wrong rank or dtype, NaN or infinity, no row but zeros, another sign, explained_variance out of
            range.
    """
    if not 0 < explained_variance <= 1:
        raise ValueError(f"explained_variance must be above 0 and at most 1, got {explained_variance}")
    if sign not in ("release", "align"):
        raise ValueError(f"sign must be 'release' or 'align', got {sign!r}")
    array = checks.matrix("validation", validation)
    rows = array[nonzero_rows(array, "validation")].astype(np.float64)
    if len(rows) == 0:
        raise ValueError(f"validation must have a row other than zero, got shape {array.shape}")
    rows = rows / np.abs(rows).max()  # squares of very large or very small gradients overflow or vanish
    mean = rows.mean(axis=0)
    square = np.square(rows).sum(axis=1).mean()
    if np.square(rows - mean).sum(axis=1).mean() <= _NO_VARIANCE * square:
        return (mean / np.linalg.norm(mean))[None], np.ones(1)
    pca = PCA(svd_solver="full").fit(rows)
    reached = np.cumsum(pca.explained_variance_ratio_) >= explained_variance - _ROUNDING
    count = int(np.argmax(reached)) + 1
    components = pca.components_[:count]
    components /= np.linalg.norm(components, axis=1, keepdims=True)
    if sign == "align":
        components[components @ mean < -_NO_VARIANCE * np.sqrt(square)] *= -1
    ratios = pca.explained_variance_ratio_[:count]
    return components, ratios / ratios.sum()


def component_budgets(shares: np.ndarray, total: int) -> np.ndarray:
    """Split a budget by largest remainder; of equal remainders the later component's is served first (the release).

    Args:
        shares: float64 (q,), sum 1.
        total: rows to split.

    Returns:
        int64 (q,), sums to `total`.
    """
    quotas = shares * total
    budgets = np.floor(quotas + _ROUNDING).astype(np.int64)
    remainders = np.round(quotas - budgets, 9)
    later_first = np.argsort(-remainders[::-1], kind="stable")
    budgets[len(shares) - 1 - later_first[: total - budgets.sum()]] += 1
    return budgets
