"""Vectors of many rows in several files: gradients, embeddings, influence; read when they are used."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from instsel.arrays import list_rows
from instsel.errors import InputError
from instsel.gradients.features import read_features, read_norms
from instsel.io.matrix import stack


@dataclass(frozen=True)
class Block:
    """Vectors of a file, as they are stored.

    Attributes:
        ids: of the n rows.
        values: (n, d), float32, float16 or int8, read-only; on a local path a view of the file's pages.
        norms: float32 (n,), lengths that gradients had before they were normalised; None where nothing was.
        scales: float32 (n,), what an int8 row is multiplied with; None where values are floating.
    """

    ids: list[str]
    values: np.ndarray
    norms: np.ndarray | None = None
    scales: np.ndarray | None = None

    @classmethod
    def of_features(cls, table: pa.Table) -> "Block":
        """Read a shard of gradient features: unit rows, and the lengths that they had."""
        ids, values = read_features(table)
        scales = table["scale"].to_numpy() if "scale" in table.column_names else None
        return cls(ids, values, read_norms(table), scales)

    @classmethod
    def of_column(cls, table: pa.Table, column: str) -> "Block":
        """Read a shard whose vectors are a column of fixed-size lists of float32."""
        return cls(table["id"].to_pylist(), list_rows(table[column]))

    def decoded(self, rows: Sequence[int] | slice = slice(None)) -> np.ndarray:
        """Return the vectors of some rows, by default all: float32 (k, d); without a copy where they are stored so."""
        values: np.ndarray = self.values[rows].astype(np.float32, copy=False)
        return values if self.scales is None else values * self.scales[rows][:, None]


class Vectors:
    """Vectors of many rows, in blocks of a file each.

    Attributes:
        parts: names of the blocks: shards of the pool, or targets.
        columns: what the d entries of a vector are, d lines (id, target, subtask); None where they have no names.
    """

    def __init__(self, parts: Sequence[str], read: Callable[[str], Block], columns: pa.Table | None = None) -> None:
        """Set the names of the blocks, and how a block is read."""
        self.parts, self.columns, self._read = list(parts), columns, read

    def __iter__(self) -> Iterator[Block]:
        return map(self._read, self.parts)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        values = self._read(self.parts[0]).values
        return f"<Vectors: {len(self.parts)} blocks, rows of {values.shape[1]} {values.dtype}>"

    def block(self, part: str) -> Block:
        """Read a block by its name.

        Raises:
            InputError: no block has that name.
        """
        if part not in self.parts:
            raise InputError(f"there is no block {part!r}; they are {', '.join(self.parts)}")
        return self._read(part)

    @cached_property
    def ids(self) -> list[str]:
        """Ids of all n rows, in the order of the blocks."""
        return [row for block in self for row in block.ids]

    @cached_property
    def norms(self) -> np.ndarray:
        """Lengths that gradients had before they were normalised, float32 (n,), in the order of `ids`.

        Raises:
            InputError: these are no gradients.
        """
        norms = [block.norms for block in self if block.norms is not None]
        if not norms:
            raise InputError("only gradients have norms: these vectors are stored as they are")
        return np.concatenate(norms)

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """Return the vectors of some rows, float32 (k, d), in the order of `ids`.

        Raises:
            InputError: a row has no vector here.
        """
        wanted, vectors = set(ids), dict[str, np.ndarray]()
        for block in self:
            rows = [index for index, row in enumerate(block.ids) if row in wanted]
            vectors |= zip([block.ids[index] for index in rows], block.decoded(rows), strict=True)
        absent = next((row for row in ids if row not in vectors), None)
        if absent is not None:
            raise InputError(f"row {absent!r} has no vector here; `ids` has those that do")
        width = self._read(self.parts[0]).values.shape[1]
        return np.stack([vectors[row] for row in ids]) if ids else np.empty((0, width), np.float32)

    def to_numpy(self) -> np.ndarray:
        """Return all vectors, float32 (n, d), read-only, in the order of `ids`; above 1 GiB in a mapped file."""
        width = self._read(self.parts[0]).values.shape[1]
        return stack((block.decoded() for block in self), len(self.ids), width)
