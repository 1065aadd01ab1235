"""The pool as arrays of codes, each selection as indices into it, and what they are made of.

Nothing here grows a Python list with the pool.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from instsel.choice.output import TABLE
from instsel.report.facts import Composition, Lengths, Overlap
from instsel.report.record import StudyRecord

BOUNDS = (64, 128, 256, 512, 1024, 2048, 4096)
NO_TASK = "-"
NO_CATEGORY = "none"
MOST_NAMES = 24
REST = "all others"


@dataclass(frozen=True)
class Facet:
    """A property that divides the pool: its values, and the code of the value of every row, int64 (n,)."""

    names: list[str]
    codes: NDArray[np.int64]

    def counts(self, indices: NDArray[np.int64] | None = None) -> list[int]:
        """Count the rows of each value, in the pool or among the rows at some indices."""
        codes = self.codes if indices is None else self.codes[indices]
        counts: list[int] = np.bincount(codes, minlength=len(self.names)).tolist()
        return counts


class Pool:
    """The index of a pool and the selections from it."""

    def __init__(self, record: StudyRecord) -> None:
        """Read the index."""
        self.record = record
        self.index: pa.Table = record.reader.index
        self.ids: pa.Array = self.index["id"].combine_chunks()

    @property
    def rows(self) -> int:
        """Rows of the pool."""
        return len(self.ids)

    @cached_property
    def chosen(self) -> dict[str, NDArray[np.int64]]:
        """Selection -> indices of its rows in pick order; rows that the pool does not have are passed over."""
        names = list(self.record.results("select"))
        tables = [(self.record.folder / "select" / name).read_table(TABLE, ["id"])["id"] for name in names]
        if not names:
            return {}
        # One look-up for all: the table of the pool's ids is built once.
        indices = self.indices(pa.chunked_array([chunk for table in tables for chunk in table.chunks], pa.string()))
        ends = np.cumsum([len(table) for table in tables])
        parts = zip(names, np.split(indices, ends[:-1]), strict=True)
        # A selection from an earlier pool may have rows that this one lacks.
        return {name: part[part >= 0] for name, part in parts}

    def indices(self, ids: pa.ChunkedArray) -> NDArray[np.int64]:
        """Return the indices of rows, int64; -1 for those that are not in the pool."""
        indices = pc.fill_null(pc.index_in(ids, value_set=self.ids), -1)
        return np.asarray(indices.to_numpy(), dtype=np.int64)

    @cached_property
    def facets(self) -> dict[str, Facet]:
        """Source, task, category where the study has them, and length."""
        source, task = facet_of(self.index["source"]), facet_of(pc.fill_null(self.index["task"], NO_TASK))
        pairs, codes = np.unique(source.codes * len(task.names) + task.codes, return_inverse=True)
        pairs = [divmod(pair, len(task.names)) for pair in pairs.tolist()]
        facets = {"source": source}
        facets["task"] = Facet([f"{source.names[s]}/{task.names[t]}" for s, t in pairs], codes.astype(np.int64))
        if "categorize" in self.record.manifests:
            facets["category"] = self._categories()
        labels = [f"{low + 1:,}-{high:,}" for low, high in zip((0, *BOUNDS), BOUNDS, strict=False)]
        codes = np.searchsorted(BOUNDS, self.index["tokens"].to_numpy()).astype(np.int64)
        facets["length"] = Facet([*labels, f"over {BOUNDS[-1]:,}"], codes)
        return facets

    def _categories(self) -> Facet:
        table = (self.record.folder / "categorize").read_table("categories.parquet", ["id", "category"])
        facet = facet_of(table["category"])
        codes = np.full(self.rows, len(facet.names), dtype=np.int64)
        indices = self.indices(table["id"])
        codes[indices[indices >= 0]] = facet.codes[indices >= 0]
        return Facet([*facet.names, NO_CATEGORY], codes)

    @cached_property
    def shards(self) -> dict[str, NDArray[np.int64]]:
        """Shard -> indices of its rows."""
        facet = facet_of(self.index["shard"])
        order = np.argsort(facet.codes, kind="stable")
        ends = np.cumsum(facet.counts())
        return dict(zip(facet.names, np.split(order, ends[:-1]), strict=True))


def facet_of(column: pa.ChunkedArray) -> Facet:
    """Encode a column of names, which are sorted."""
    encoded = column.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=lambda code: names[code])
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    return Facet([names[code] for code in order], rank[encoded.indices.to_numpy()])


def composition(pool: Pool) -> dict[str, Composition]:
    """Count rows by source, task, category and length, in the pool and in each selection.

    The names that hold the most rows are kept, the others become one.
    """
    compositions = {}
    for name, facet in pool.facets.items():
        shown = _used(facet) if name == "length" else _largest(facet, pool)
        if len(shown.names) >= 2 or name == "source":
            by_selection = {selection: shown.counts(indices) for selection, indices in pool.chosen.items()}
            compositions[name] = Composition(names=shown.names, pool=shown.counts(), selections=by_selection)
    return compositions


def lengths(pool: Pool) -> dict[str, Lengths]:
    """Return mean and quartiles of the tokens of a row, in the pool and in each selection."""
    tokens = pool.index["tokens"].to_numpy()
    parts = {"pool": tokens, **{name: tokens[indices] for name, indices in pool.chosen.items()}}
    return {
        name: Lengths(
            rows=len(values),
            tokens=int(values.sum(dtype=np.int64)),
            mean=float(values.mean()),
            quartiles=np.percentile(values, [25, 50, 75]).tolist(),
        )
        for name, values in parts.items()
        if len(values)
    }


def overlap(pool: Pool) -> Overlap:
    """Return which share of each selection every other one has too."""
    sets = [np.unique(indices) for indices in pool.chosen.values()]
    shares = np.zeros((len(sets), len(sets)))
    member = np.zeros(pool.rows, dtype=bool)
    for row, indices in enumerate(sets):
        member[indices] = True
        shares[row] = [member[other].sum() / max(1, len(indices)) for other in sets]
        member[indices] = False
    return Overlap(names=list(pool.chosen), shares=shares.tolist())


def _used(facet: Facet) -> Facet:
    """Keep the names from the first to the last that some row has."""
    first, last = int(facet.codes.min(initial=len(facet.names) - 1)), int(facet.codes.max(initial=0))
    return Facet(facet.names[first : last + 1], facet.codes - first)


def _largest(facet: Facet, pool: Pool) -> Facet:
    """Keep the names with the most rows, in the pool or in any selection, the most first."""
    size = len(facet.names)
    parts = [facet.codes, *(facet.codes[indices] for indices in pool.chosen.values())]
    shares = [np.bincount(codes, minlength=size) / max(1, len(codes)) for codes in parts]
    used = np.flatnonzero(shares[0])
    kept = used[np.argsort(-np.max(shares, axis=0)[used], kind="stable")][:MOST_NAMES]
    kept = kept[np.argsort(-shares[0][kept], kind="stable")]
    codes = np.full(size, len(kept), dtype=np.int64)
    codes[kept] = np.arange(len(kept))
    names = [facet.names[code] for code in kept.tolist()]
    return Facet(names if len(kept) == len(used) else [*names, REST], codes[facet.codes])
