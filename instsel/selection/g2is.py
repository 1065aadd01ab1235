"""What G2IS aims at: the principal components of the validation gradients, and each one's part of the budget."""

import warnings
from typing import Literal

import numpy as np
from sklearn.decomposition import PCA

from instsel import arrays
from instsel.arrays import row_blocks, unit_rows
from instsel.selection.base import Selection

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
    array = arrays.matrix("validation", validation)
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


TOLERANCE = 1e-12  # cosines closer than this are equal
_FLOAT64_BYTES = np.dtype(np.float64).itemsize


class DirectionPool:
    """Rows (n, d) of any real dtype, L2-normalised; zero rows are left out. A place is a number among the rows kept.

    Attributes:
        rows: int64 (kept,), the row of each place.
        margin: bound on the difference between an entry of `products` and the cosine.
    """

    def __init__(self, features: np.ndarray, *, name: str, memory_bytes: int) -> None:
        """Check the rows and, if their float32 copy fits in `memory_bytes`, normalise them once and for all.

        Args:
            features: (n, d); may be memory-mapped.
            name: what the array is, for messages.
            memory_bytes: a larger pool is read and normalised anew, in blocks, at every product.

        Raises:
            ValueError: wrong rank or dtype, no columns, NaN or infinity.
        """
        self._features = arrays.matrix(name, features)
        self.rows = nonzero_rows(self._features, name)
        d = self._features.shape[1]
        # Rounding errors of a sum of d terms grow like sqrt(d); 8 is ample for sums in several lanes.
        self.margin = float(8 * np.sqrt(d) * np.finfo(np.float32).eps)
        self._blocks = list(row_blocks(len(self.rows), d * np.dtype(np.float32).itemsize))
        self._units: np.ndarray | None = None
        if len(self.rows) * d * np.dtype(np.float32).itemsize <= memory_bytes:
            self._units = np.empty((len(self.rows), d), dtype=np.float32)
            for block in self._blocks:
                self._units[block] = unit_rows(self._features[self.rows[block]])

    def __len__(self) -> int:
        """Return the number of rows kept."""
        return len(self.rows)

    def products(self, direction: np.ndarray) -> np.ndarray:
        """Return float32 (kept,): the cosine of every row with a unit direction float64 (d,), to within `margin`."""
        short = direction.astype(np.float32)
        if self._units is not None:
            return np.asarray(self._units @ short)
        parts = [unit_rows(self._features[self.rows[block]]) @ short for block in self._blocks]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)

    def units(self, places: np.ndarray) -> np.ndarray:
        """Return float64 (p, d), the rows at these places, of length 1."""
        wide = self._features[self.rows[places]].astype(np.float64)
        wide /= np.abs(wide).max(axis=1, keepdims=True)
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
        return wide

    def cosines(self, places: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Return float64 (p, q): inner products of the unit rows at p places with directions float64 (q, d)."""
        result = np.empty((len(places), len(directions)))
        for block in row_blocks(len(places), directions.shape[1] * _FLOAT64_BYTES):
            result[block] = self.units(places[block]) @ directions.T
        return result

    def least_cosine(self, places: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return float64 (p,): the smallest cosine of each row at `places` with any row at `others`."""
        least = np.full(len(places), np.inf)
        for block in row_blocks(len(others), self._features.shape[1] * _FLOAT64_BYTES):
            np.minimum(least, self.cosines(places, self.units(others[block])).min(axis=1), out=least)
        return least

    def top(
        self, products: np.ndarray, direction: np.ndarray, allowed: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the `count` allowed places most similar to a direction, all of them if there are fewer.

        Args:
            products: what `products` gave for the direction.
            direction: float64 (d,), of length 1.
            allowed: bool (kept,).
            count: places wanted.

        Returns:
            Places int64 (count,) by falling cosine, equal ones by place; their cosines float64 (count,).
        """
        places = np.flatnonzero(allowed)
        if 0 < count < len(places):
            least = np.partition(products[places], len(places) - count)[len(places) - count]
            places = places[products[places] >= least - 2 * self.margin]
        exact = self.cosines(places, direction[None])[:, 0]
        order = falling_order(exact)[:count]
        return places[order], exact[order]


def falling_order(values: np.ndarray) -> np.ndarray:
    """Sort by falling value; a value within `TOLERANCE` of the next larger one equals it, and equal ones keep order."""
    order = np.argsort(-values, kind="stable")
    ranks = np.cumsum(-np.diff(values[order], prepend=values[order[:1]]) > TOLERANCE)
    return order[np.lexsort((order, ranks))]


def nonzero_rows(features: np.ndarray, name: str) -> np.ndarray:
    """Find the rows that have a direction and warn of the others.

    Args:
        features: (n, d), read in blocks.
        name: what the array is, for messages.

    Returns:
        int64 (kept,), the rows that are not all zeros.

    Raises:
        ValueError: no columns, NaN or infinity.
    """
    if features.shape[1] == 0:
        raise ValueError(f"{name} must have at least one column, got shape {features.shape}")
    kept = np.empty(len(features), dtype=bool)
    for block in row_blocks(len(features), features.shape[1] * features.dtype.itemsize):
        part = features[block]
        least, most = part.min(axis=1), part.max(axis=1)
        bad = np.flatnonzero(~(np.isfinite(least) & np.isfinite(most)))
        if bad.size:
            raise ValueError(f"{name} must be finite, got NaN or infinity at row {block.start + bad[0]}")
        kept[block] = (least != 0) | (most != 0)
    zero = np.flatnonzero(~kept)
    if zero.size:
        first = ", ".join(map(str, zero[:5].tolist())) + (", ..." if zero.size > 5 else "")
        warnings.warn(f"{zero.size} rows of {name} are zero and are left out: {first}", stacklevel=3)
    return np.flatnonzero(kept)


def select(
    train: np.ndarray, validation: np.ndarray, budget: int,
    *, delta: float = 0.8, explained_variance: float = 0.5, sign: Sign = "release", neighbors: int | None = None,
    fill: Literal["similarity"] | None = None, memory_bytes: int = 2**33,
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
        memory_bytes: if 4 n d is larger, every step reads `train` anew, in blocks, in place of a float32 copy.

    Returns:
        Selection whose `driven_by` is the component (0 has the largest variance). A score is the cosine with the row
        before; for the first row of a walk, and for rows found by similarity to the component, the cosine with that.

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
        for place, score in _walk(pool, components[number], taken, int(budgets[number]), delta, neighbors):
            picks.append((place, score, number))
            left[number] -= 1
    if left.any():
        _warn(budgets, left, fill)
    if fill == "similarity":
        for number in np.flatnonzero(left).tolist():
            component = components[number]
            places, cosines = pool.top(pool.products(component), component, ~taken, int(left[number]))
            taken[places] = True
            picks += [(place, cosine, number) for place, cosine in zip(places.tolist(), cosines.tolist(), strict=True)]
    indices = pool.rows[np.array([place for place, _, _ in picks], dtype=np.int64)]
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
        """Take the untaken row most similar to the component; return its place and cosine."""
        places, cosines = self._pool.top(self._similar, self._component, ~self._taken, 1)
        self._take(int(places[0]))
        return int(places[0]), float(cosines[0])

    def step(self, neighbors: int | None) -> tuple[int, float] | None:
        """Take the next row; return its place and score, or None if no row may follow."""
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
        found = self._first(self._coherence, self._last, near)
        if found is None and neighbors is not None:
            found = self._first(self._similar, self._component, possible)
        if found is not None:
            self._take(found[0])
        return found

    def _take(self, place: int) -> None:
        self._taken[place] = True
        self._members.append(place)
        self._last = self._pool.units(np.array([place]))[0]
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

    def _may_follow(self, places: np.ndarray) -> np.ndarray:
        """Put both tests to rows, in float64."""
        along, similar = self._pool.cosines(places, np.stack([self._sum, self._component])).T
        norm = np.sqrt(np.maximum(self._sum @ self._sum + 2 * along + 1, 1))
        passes = np.abs(self._sum @ self._component + similar) / norm >= self._threshold() - TOLERANCE
        unsure = np.flatnonzero(passes & (self._least[places] < self._pool.margin))
        passes[unsure] = self._pool.least_cosine(places[unsure], np.array(self._members)) >= -TOLERANCE
        return np.asarray(passes)


def _walk(
    pool: DirectionPool, component: np.ndarray, taken: np.ndarray, budget: int, delta: float, neighbors: int | None
) -> list[tuple[int, float]]:
    """Return places and scores of one component's walk, and mark its rows as taken."""
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
