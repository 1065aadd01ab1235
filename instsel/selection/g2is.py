"""G2IS: walks over the pool's gradients, one for each principal component of the validation gradients.

arXiv 2502.11062, with the release's walk on the complete graph of the pool.
"""

import warnings
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from instsel import arrays
from instsel.selection.base import AttributedMethod, Requires
from instsel.selection.cost import FLOAT32, FLOAT64, MIB, Shape
from instsel.selection.directions import TOLERANCE, DirectionPool, falling_order, nonzero_rows
from instsel.selection.method_data import GradientData
from instsel.selection.picked import Selection

Sign = Literal["release", "align"]

WALK_BYTES = 2**33
"""Of unit gradients that are held; above it every step reads the gradients again."""

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
    array = arrays.matrix("validation", validation)
    rows = array[nonzero_rows(array, "validation")].astype(np.float64)
    if len(rows) == 0:
        raise ValueError(f"validation must have a row other than zero, got shape {array.shape}")
    rows = rows / np.abs(rows).max()  # squares of very large or very small gradients overflow or vanish
    mean = rows.mean(axis=0)
    square = np.square(rows).sum(axis=1).mean()
    if np.square(rows - mean).sum(axis=1).mean() <= _NO_VARIANCE * square:
        return (mean / np.linalg.norm(mean))[None], np.ones(1)
    # Here, so that reading a study file does not load scikit-learn.
    from sklearn.decomposition import PCA

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


def select(  # noqa: PLR0913
    train: np.ndarray, validation: np.ndarray, budget: int,
    *, delta: float = 0.8, explained_variance: float = 0.5, sign: Sign = "release", neighbors: int | None = None,
    fill: Literal["similarity"] | None = None, memory_bytes: int = WALK_BYTES,
) -> Selection:  # fmt: skip
    """Walk from row to row: to the nearest that conflicts with no row of the walk and keeps to the component.

    A component's walk starts at the untaken row most similar to it. A row may follow if its cosine with every row of
    the walk is at least 0 and if |cos(sum of the walk's unit rows, component)| stays at or above `delta` times what it
    was; the one most similar to the row before does. When none may follow the walk ends, and what it left of its
    budget goes to no other walk. Cosines closer than 1e-12 are equal, in the tests too; ties go to the lowest row.

    Args:
        train: (n, d), any real dtype, of any length; may be memory-mapped. Zero rows are left out with a warning.
        validation: (m, d); see `core_knowledge`.
        budget: rows wanted, split over the components by their shares of the variance (`component_budgets`).
        delta: from 0 to 1.
        explained_variance: see `core_knowledge`.
        sign: see `core_knowledge`.
        neighbors: walk on the graph that keeps the edges of each row to its so many most similar rows, as a stored
            graph does; if none of them may follow, the untaken row most similar to the component that may follow does.
            None is the complete graph.
        fill: "similarity" fills what the walks left, component after component, with the untaken rows most similar to
            the component, whatever the two tests say. None returns fewer rows than asked for. Either way a warning
            tells what each component left.
        memory_bytes: if 4 n d is larger, every step reads `train` again, in blocks, in place of a float32 copy.

    Returns:
        Selection whose `driven_by` is the component (0 has the largest variance). A score is the cosine with the row
        before; for the first row of a walk, and for rows that fill up by similarity, the cosine with the component.

    Raises:
        ValueError: wrong ranks or dtypes, widths that differ, NaN or infinity, no validation row but zeros, a
            negative budget, another argument out of range.
    """
    rows, targets = arrays.matrix("train", train), arrays.matrix("validation", validation)
    count = arrays.budget(budget, len(rows))
    _check(rows, targets, delta, neighbors, fill)
    components, shares = core_knowledge(targets, explained_variance=explained_variance, sign=sign)
    pool = DirectionPool(rows, name="train", memory_bytes=arrays.whole_number("memory_bytes", memory_bytes))
    budgets = component_budgets(shares, min(count, len(pool)))
    taken = np.zeros(len(pool), dtype=bool)
    picks: list[tuple[int, float, int]] = []
    left = budgets.copy()
    for number in np.flatnonzero(budgets).tolist():
        for position, score in _walk(pool, components[number], taken, int(budgets[number]), delta, neighbors):
            picks.append((position, score, number))
            left[number] -= 1
    if left.any():
        _warn(budgets, left, fill)
    if fill == "similarity":
        for number in np.flatnonzero(left).tolist():
            component = components[number]
            positions, cosines = pool.top(pool.products(component), component, ~taken, int(left[number]))
            taken[positions] = True
            picks += [(row, cosine, number) for row, cosine in zip(positions.tolist(), cosines.tolist(), strict=True)]
    indices = pool.rows[np.array([position for position, _, _ in picks], dtype=np.int64)]
    scores = np.array([score for _, score, _ in picks], dtype=np.float64)
    return Selection(indices, scores, np.array([number for _, _, number in picks], dtype=np.int64))


class _Walk:
    """The rows that one component has taken, and what every row of the pool is to them."""

    def __init__(self, pool: DirectionPool, component: np.ndarray, taken: np.ndarray, delta: float) -> None:
        self._pool, self._component, self._taken, self._delta = pool, component, taken, delta
        self._similar = pool.products(component)
        self._least = np.full(len(pool), np.inf)  # cosine with the row of the walk that a row conflicts with most
        self._along = np.zeros(len(pool))  # product with the sum of the walk
        self._sum = np.zeros_like(component)
        self._members: list[int] = []

    def start(self) -> tuple[int, float]:
        """Take the untaken row most similar to the component; return its position and cosine."""
        positions, cosines = self._pool.top(self._similar, self._component, ~self._taken, 1)
        self._take(int(positions[0]))
        return int(positions[0]), float(cosines[0])

    def step(self, neighbors: int | None) -> tuple[int, float] | None:
        """Take the next row; return its position and score, or None if no row may follow."""
        possible = ~self._taken & (self._least >= -self._pool.margin)
        # The norm is never below 1 for rows without conflict, so that errors of `_along` do not grow with the walk.
        norm = np.sqrt(np.maximum(self._sum @ self._sum + 2 * self._along + 1, 1))
        agreement = np.abs(self._sum @ self._component + self._similar) / norm
        possible &= agreement >= self._threshold() - 4 * self._pool.margin
        near = possible
        if neighbors is not None:
            others = np.ones(len(possible), dtype=bool)
            others[self._members[-1]] = False
            nearest, _ = self._pool.top(self._coherence, self._last, others, neighbors)
            near = np.zeros_like(possible)
            near[nearest] = possible[nearest]
        following = self._first(self._coherence, self._last, near)
        if following is None and neighbors is not None:
            following = self._first(self._similar, self._component, possible)
        if following is not None:
            self._take(following[0])
        return following

    def _take(self, position: int) -> None:
        self._taken[position] = True
        self._members.append(position)
        self._last = self._pool.units(np.array([position]))[0]
        self._coherence = self._pool.products(self._last)
        self._sum += self._last
        self._along += self._coherence
        np.minimum(self._least, self._coherence, out=self._least)

    def _threshold(self) -> float:
        return float(self._delta * abs(self._sum @ self._component) / np.linalg.norm(self._sum))

    def _first(self, products: np.ndarray, direction: np.ndarray, possible: np.ndarray) -> tuple[int, float] | None:
        """Return the row most similar to a direction among the possible ones that may indeed follow."""
        open_rows = possible.copy()
        while open_rows.any():
            best = np.max(products, where=open_rows, initial=-np.inf)
            window = np.flatnonzero(open_rows & (products >= best - 2 * self._pool.margin))
            passes = self._may_follow(window)
            if passes.all():
                cosines = self._pool.cosines(window, direction[None])[:, 0]
                first = falling_order(cosines)[0]
                return int(window[first]), float(cosines[first])
            open_rows[window[~passes]] = False
        return None

    def _may_follow(self, positions: np.ndarray) -> np.ndarray:
        """Put both tests to rows, in float64."""
        along, similar = self._pool.cosines(positions, np.stack([self._sum, self._component])).T
        norm = np.sqrt(np.maximum(self._sum @ self._sum + 2 * along + 1, 1))
        passes = np.abs(self._sum @ self._component + similar) / norm >= self._threshold() - TOLERANCE
        unsure = np.flatnonzero(passes & (self._least[positions] < self._pool.margin))
        passes[unsure] = self._pool.least_cosine(positions[unsure], np.array(self._members)) >= -TOLERANCE
        return np.asarray(passes)


def _walk(
    pool: DirectionPool, component: np.ndarray, taken: np.ndarray, budget: int, delta: float, neighbors: int | None
) -> list[tuple[int, float]]:
    """Return positions and scores of one component's walk, and mark its rows as taken."""
    walk = _Walk(pool, component, taken, delta)
    picks = [walk.start()]
    while len(picks) < budget:
        following = walk.step(neighbors)
        if following is None:
            break
        picks.append(following)
    return picks


def _check(train: np.ndarray, validation: np.ndarray, delta: float, neighbors: int | None, fill: str | None) -> None:
    if train.shape[1] != validation.shape[1]:
        raise ValueError(
            f"train and validation must have the same columns, got shapes {train.shape} and {validation.shape}"
        )
    if not 0 <= delta <= 1:
        raise ValueError(f"delta must be from 0 to 1, got {delta}")
    if neighbors is not None:
        arrays.whole_number("neighbors", neighbors, least=1)
    if fill not in (None, "similarity"):
        raise ValueError(f"fill must be 'similarity' or None, got {fill!r}")


def _warn(budgets: np.ndarray, left: np.ndarray, fill: str | None) -> None:
    parts = [f"component {number} left {left[number]} of {budgets[number]}" for number in np.flatnonzero(left)]
    outcome = "filled by similarity" if fill else "fewer rows are returned; fill='similarity' would fill up"
    message = (
        f"g2is found {(budgets - left).sum()} of {budgets.sum()} rows by its walks ({', '.join(parts)}): {outcome}"
    )
    warnings.warn(message, stacklevel=3)


class G2is(AttributedMethod):
    """Walks over the gradients of the pool."""

    requires: ClassVar[Requires] = "gradients"
    is_prefix_stable = False
    scans_pool = True
    array_function = staticmethod(select)

    method: Literal["g2is"] = Field(description="a walk over the graph of gradients, one a principal component")
    delta: float = Field(0.8, ge=0, le=1, description="share of the agreement with the component that a step must keep")
    explained_variance: float = Field(0.5, gt=0, le=1, description="variance that the components explain together")
    sign: Sign = Field(
        "release", description="direction of a component: as PCA leaves it, or with the mean validation gradient"
    )
    neighbors: int | None = Field(
        None, ge=1, description="rows that a step looks at first, as the release; default all"
    )
    fill: Literal["similarity"] | None = Field(
        None, description="what fills the budget when no row is left that conflicts with none"
    )

    def select(self, data: GradientData, budget: int, seed: int) -> Selection:
        return select(
            data.values,
            data.validation,
            budget,
            delta=self.delta,
            explained_variance=self.explained_variance,
            sign=self.sign,
            neighbors=self.neighbors,
            fill=self.fill,
        )

    def reasons(self, data: GradientData, selection: Selection, seed: int) -> list[str]:
        return [f"principal component {component + 1}" for component in selection.drivers]

    def details(self, data: GradientData) -> Mapping[str, Mapping[str, float]]:
        """Return `component_shares`: component, from 1, to its share of the variance."""
        variance, sign = self.explained_variance, self.sign
        _, shares = core_knowledge(data.validation, explained_variance=variance, sign=sign)
        return {"component_shares": {str(number): share for number, share in enumerate(shares.tolist(), start=1)}}

    def working_memory(self, shape: Shape) -> int:
        whitening = 0
        if shape.damping is not None:
            whitening = (FLOAT64 * shape.checkpoints + 4 * FLOAT64) * shape.dim**2
        units = FLOAT32 * shape.rows * shape.width(self.requires)
        return max(whitening, units if _holds_units(shape) else 3 * 32 * MIB)

    def timed_select(self, data: GradientData, budget: int, shape: Shape) -> Selection:
        # Between rows without negative entries there are no conflicts, which would end a walk: the most it can take.
        rows = np.abs(data.values)
        memory = WALK_BYTES if _holds_units(shape) else 0
        return select(rows, rows[:1].copy(), budget, delta=0.0, neighbors=self.neighbors, memory_bytes=memory)


def _holds_units(shape: Shape) -> bool:
    return FLOAT32 * shape.rows * shape.checkpoints * shape.dim <= WALK_BYTES
