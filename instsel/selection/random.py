"""Random choice: the baseline that every method must beat."""

import warnings
from collections.abc import Collection
from difflib import get_close_matches
from typing import Literal

import numpy as np
from pydantic import Field, JsonValue

from instsel import arrays
from instsel.selection.base import Form, Method
from instsel.selection.cost import COSTED
from instsel.selection.method_data import IndexData
from instsel.selection.picked import Selection

# Of a pool with more sources an error names the nearest ones alone.
_NAMED_SOURCES = 10
# Keys of the entry by which it is another baseline than the plain draw.
_NARROWED = ("sources", "lengths_of", "extra_for")


def select(n: int, budget: int, *, seed: int, among: np.ndarray | None = None) -> Selection:
    """Pick rows uniformly at random, without replacement.

    For one seed and pool a smaller budget gives the beginning of a larger one's picks, and the picks are the same on
    every platform and numpy version: they come from the raw words of PCG64, which numpy keeps fixed, unlike the
    methods of its Generator.

    Args:
        n: rows in the pool.
        budget: rows wanted; above the rows that may be picked gives all of them.
        seed: any whole number from 0.
        among: bool (n,), which rows may be picked, in the order that they have in the draw from all; default all.

    Returns:
        Selection with scores 0 and no `driven_by`.

    Raises:
        ValueError: n, budget or seed negative or not whole, or `among` of another shape or dtype.
    """
    rows = arrays.whole_number("n", n)
    wanted = arrays.budget(budget, rows)
    keys = np.random.PCG64(arrays.whole_number("seed", seed)).random_raw(rows)
    order = np.argsort(keys, kind="stable")
    if among is not None:
        allowed = np.asarray(among)
        if allowed.shape != (rows,) or allowed.dtype != np.bool_:
            raise ValueError(f"among must be bool ({rows},), got {allowed.dtype} of shape {allowed.shape}")
        order = order[allowed[order]]
    picked = order[:wanted]
    return Selection(picked, np.zeros(len(picked)))


def match_lengths(tokens: np.ndarray, reference: np.ndarray, *, seed: int) -> Selection:
    """Draw rows that are as long as those of another selection, as many and without replacement.

    Rows are grouped by length, each length up to 39 tokens by itself, longer ones so that the longest of a group has at
    most 5 % more tokens than the shortest. Of each group as many rows are drawn, uniformly, as the other selection has.

    Args:
        tokens: int (n,), tokens of every row of the pool, at least 1.
        reference: int64 (k,), rows of the other selection, each at most once.
        seed: any whole number from 0; rows come in the order of `select` with this seed.

    Returns:
        Selection of k rows with scores 0 and no `driven_by`. Rows of the other selection may be among them, and are
        where it has all of a length.

    Raises:
        ValueError: a length below 1, an index that is no row or twice there, or a seed that is negative or not whole.
    """
    lengths = np.asarray(tokens)
    if lengths.ndim != 1 or (lengths.size and (lengths.dtype.kind not in "iu" or lengths.min() < 1)):
        raise ValueError("tokens must be whole numbers (n,) of at least 1")
    rows = Selection(np.asarray(reference), np.zeros(len(reference))).indices
    if rows.size and rows.max() >= len(lengths):
        raise ValueError(f"reference must be rows below {len(lengths)}, got {rows.max()}")
    edges = [1]
    while edges[-1] <= lengths.max(initial=0):
        edges.append(edges[-1] + max(1, edges[-1] // 20))
    groups = np.searchsorted(edges, lengths, side="right") - 1
    wanted = np.bincount(groups[rows], minlength=len(edges))
    order = select(len(lengths), len(lengths), seed=seed).indices
    drawn = groups[order]
    picked = order[rank_in_group(drawn, np.bincount(groups, minlength=len(edges))) < wanted[drawn]]
    return Selection(picked, np.zeros(len(picked)))


def rank_in_group(drawn: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Count, for each drawn row, how many rows of its group were drawn before it.

    Args:
        drawn: int64 (n,), the group of each row in the order of the draw.
        sizes: int64 (groups,), rows of each group.
    """
    by_group = np.argsort(drawn, kind="stable")
    ranks = np.empty(len(drawn), dtype=np.int64)
    ranks[by_group] = np.arange(len(drawn)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks


def _suggestion(name: str, sources: Collection[str]) -> str:
    if near := get_close_matches(name, sources):
        return f"did you mean {' or '.join(near)}?"
    known = sorted(sources)[:_NAMED_SOURCES]
    return f"it has {', '.join(known)}" + (
        f" and {len(sources) - len(known)} more" if len(sources) > len(known) else ""
    )


class Random(Method):
    """A uniform draw, which the report compares every other method with."""

    is_stochastic = True
    is_baseline = True
    array_function = staticmethod(select)

    method: Literal["random"] = Field(description="a uniform draw, the baseline of the report")
    sources: list[str] | None = Field(
        None, min_length=1, description="draw only from these sources of the pool; default from all"
    )
    lengths_of: str | None = Field(
        None,
        description="draw rows as long as those of this entry's selection, and as many; default any length",
    )
    extra_for: str | None = Field(
        None,
        description="add the rows that could be trained on for what this entry's selection cost; default none",
    )

    def select(self, data: IndexData, budget: int, seed: int) -> Selection:
        if self.lengths_of is not None:
            if data.reference is None:
                raise ValueError(f"the selection {self.lengths_of!r}, whose lengths are to be matched, is not there")
            return match_lengths(data.tokens, data.reference, seed=seed)
        if self.sources is None:
            return select(len(data), budget, seed=seed)
        groups = data.groups("source")
        among = np.isin(groups.dictionary.to_pylist(), self.sources)[groups.indices.to_numpy()]
        if (rows := int(among.sum())) < budget:
            warnings.warn(f"{', '.join(self.sources)} have {rows} rows, and no more are chosen", stacklevel=2)
        return select(len(data), budget, seed=seed, among=among)

    def reasons(self, data: IndexData, selection: Selection, seed: int) -> list[str]:
        drawn_from = "" if self.sources is None else f" from {', '.join(self.sources)}"
        drawn_from += "" if self.lengths_of is None else f" of the lengths of {self.lengths_of}"
        drawn_from += "" if self.extra_for is None else f" of more rows for the cost of {self.extra_for}"
        return [f"uniform draw{drawn_from}, seed {seed}"] * len(selection)

    def check(self, targets: Collection[str], form: Form) -> None:
        if self.sources is not None and self.mixture is not None:
            raise ValueError(
                f"selection.methods: {self.name!r} has sources and a mixture, whose shares are of all rows; "
                "remove one of them"
            )
        given = [key for key in ("lengths_of", "extra_for", "mixture") if getattr(self, key) is not None]
        if self.lengths_of is not None and self.sources is not None:
            given.append("sources")
        if len(given) > 1:
            raise ValueError(
                f"selection.methods: {self.name!r} has {' and '.join(given)}, which each say which rows are drawn; "
                "keep one of them"
            )

    def check_reference(self, other: Method) -> None:
        if self.extra_for is None:
            return
        where = f"selection.methods: {self.name!r} has extra_for: {other.name}"
        if other.mixture is not None:
            raise ValueError(f"{where}, which keeps to a mixture; the trainings behind it are not counted")
        if other.requires not in COSTED:
            raise ValueError(
                f"{where}, a selection by {other.requires} that takes no pass of the model which is trained; there is "
                "nothing to train on for it"
            )

    def check_sources(self, sources: Collection[str]) -> None:
        for name in self.sources or ():
            if name not in sources:
                raise ValueError(
                    f"selection.methods: {self.name!r} draws from the source {name!r}, which the pool does not have; "
                    f"{_suggestion(name, sources)}"
                )

    def settings(self) -> dict[str, JsonValue]:
        # A plain draw has the settings that it had before there were sources, so that nothing is done again for them.
        return {key: value for key, value in super().settings().items() if key not in _NARROWED or value is not None}

    def timed_as(self) -> Method:
        # Whatever narrows it, what takes time is to put all rows in order.
        return Random(method="random")

    @property
    def refers_to(self) -> str | None:
        return self.lengths_of or self.extra_for

    @property
    def is_extended(self) -> bool:
        return self.extra_for is not None

    @property
    def is_comparable(self) -> bool:
        return self.mixture is None and all(getattr(self, key) is None for key in _NARROWED)
