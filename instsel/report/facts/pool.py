"""The pool as arrays of codes, and each selection as places in it: nothing here grows a Python list with the pool."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from instsel.choice.output import TABLE
from instsel.report.facts.record import Record

BOUNDS = (64, 128, 256, 512, 1024, 2048, 4096)
NO_TASK = "-"


@dataclass(frozen=True)
class Facet:
    """One way to divide the pool: names, and the number of its name for every row, int (n,)."""

    names: list[str]
    codes: NDArray[np.int64]


class Pool:
    """The index of a pool and the selections from it."""

    def __init__(self, record: Record) -> None:
        """Read the index and the ids of every finished selection."""
        self.record = record
        self.index: pa.Table = record.reader.index
        self.ids: pa.Array = self.index["id"].combine_chunks()

    @property
    def rows(self) -> int:
        """How many rows the pool has."""
        return len(self.ids)

    @cached_property
    def chosen(self) -> dict[str, NDArray[np.int64]]:
        """Selection -> places of its rows in the index, in pick order; rows that are not there are left out."""
        names = list(self.record.results("select"))
        tables = [(self.record.folder / "select" / name).read_table(TABLE, ["id"])["id"] for name in names]
        if not names:
            return {}
        # One look-up for all: the table of the pool's ids is built once.
        places = self.places(pa.chunked_array([chunk for table in tables for chunk in table.chunks], pa.string()))
        ends = np.cumsum([len(table) for table in tables])
        parts = zip(names, np.split(places, ends[:-1]), strict=True)
        # A selection from an earlier pool may have rows that this one lacks.
        return {name: part[part >= 0] for name, part in parts}

    def places(self, ids: pa.ChunkedArray) -> NDArray[np.int64]:
        """Where rows stand in the index, int64; -1 for those that are not there."""
        found = pc.fill_null(pc.index_in(ids, value_set=self.ids), -1)
        return np.asarray(found.to_numpy(), dtype=np.int64)

    @cached_property
    def facets(self) -> dict[str, Facet]:
        """The ways to divide the pool: by source, task, category where the study has them, and length."""
        source, task = facet_of(self.index["source"]), facet_of(pc.fill_null(self.index["task"], NO_TASK))
        both, codes = np.unique(source.codes * len(task.names) + task.codes, return_inverse=True)
        names = [f"{source.names[one // len(task.names)]}/{task.names[one % len(task.names)]}" for one in both.tolist()]
        found = {"source": source, "task": Facet(names, codes.astype(np.int64))}
        if "categorize" in self.record.manifests:
            found["category"] = self._categories()
        tokens = self.index["tokens"].to_numpy()
        low = [0, *BOUNDS]
        labels = [f"{one + 1:,}-{more:,}" for one, more in zip(low, BOUNDS, strict=False)]
        found["length"] = Facet([*labels, f"over {BOUNDS[-1]:,}"], np.searchsorted(BOUNDS, tokens).astype(np.int64))
        return found

    def _categories(self) -> Facet:
        table = (self.record.folder / "categorize").read_table("tags.parquet", ["id", "category"])
        facet = facet_of(table["category"])
        codes = np.full(self.rows, len(facet.names), dtype=np.int64)
        places = self.places(table["id"])
        codes[places[places >= 0]] = facet.codes[places >= 0]
        return Facet([*facet.names, "none"], codes)

    @cached_property
    def shards(self) -> dict[str, NDArray[np.int64]]:
        """Shard -> places of its rows in the index."""
        facet = facet_of(self.index["shard"])
        order = np.argsort(facet.codes, kind="stable")
        ends = np.cumsum(np.bincount(facet.codes, minlength=len(facet.names)))
        return dict(zip(facet.names, np.split(order, ends[:-1]), strict=True))


def facet_of(column: pa.ChunkedArray) -> Facet:
    """A column of names as a facet, names in order of the alphabet."""
    encoded = column.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=lambda number: names[number])
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    return Facet([names[number] for number in order], rank[encoded.indices.to_numpy()])
