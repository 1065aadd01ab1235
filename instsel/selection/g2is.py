"""G2IS: a walk over the graph of gradient cosines, one walk a principal component of the validation gradients.

The method is arXiv 2502.11062, computed as the authors' release does. Its graph is complete, so that nothing of it is
stored: the cosines of one row with all rows are one product of the pool with that row, taken when the walk gets there.
"""

import warnings
from typing import Literal

import numpy as np

from instsel import checks
from instsel.selection.core_knowledge import Sign, component_budgets, core_knowledge
from instsel.selection.directions import TOLERANCE, DirectionPool, falling_order
from instsel.selection.result import Selection


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
        Selection whose `called_by` is the component (0 has the largest variance). A score is the cosine with the row
        before; for the first row of a walk, and for rows found by similarity to the component, the cosine with that.

    Raises:
        ValueError: wrong ranks or dtypes, widths that differ, NaN or infinity, no validation row but zeros, a
            negative budget, another argument out of range.
    """
    rows, targets = checks.matrix("train", train), checks.matrix("validation", validation)
    count = checks.budget(budget, len(rows))
    _check(rows, targets, delta, neighbors, fill)
    components, shares = core_knowledge(targets, explained_variance=explained_variance, sign=sign)
    pool = DirectionPool(rows, name="train", memory_bytes=checks.whole_number("memory_bytes", memory_bytes))
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
        checks.whole_number("neighbors", neighbors, least=1)
    if fill not in (None, "similarity"):
        raise ValueError(f"fill must be 'similarity' or None, got {fill!r}")


def _warn(budgets: np.ndarray, left: np.ndarray, fill: str | None) -> None:
    parts = [f"component {number} left {left[number]} of {budgets[number]}" for number in np.flatnonzero(left)]
    outcome = "filled by similarity" if fill else "fewer rows are returned; fill='similarity' would fill up"
    message = (
        f"g2is found {(budgets - left).sum()} of {budgets.sum()} rows by its walks ({', '.join(parts)}): {outcome}"
    )
    warnings.warn(message, stacklevel=3)
