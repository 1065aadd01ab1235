"""What selection methods choose from: the pool's index, influence, gradients, embeddings, losses or prompts."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from typing_extensions import Self

from instsel.arrays import row_blocks
from instsel.io.matrix import stack
from instsel.selection.picked import Selection

Groups = Literal["source", "task", "category"]


def _no_groups(by: Groups) -> pa.DictionaryArray:
    raise ValueError(f"by is {by!r}, but these rows come without groups")


@dataclass(frozen=True)
class MethodData:
    """What a method chooses from: n rows of the pool. Subclasses add what `Method.requires` says.

    Attributes:
        ids: (n,), names of the rows.
        labels_of: From "source", "task" or "category" to the label of each row, (n,): texts, or codes of them.
    """

    per_row: ClassVar[tuple[str, ...]] = ()
    """Arrays with an entry for each row."""

    ids: Sequence[str]
    labels_of: Callable[[Groups], Sequence[str] | pa.DictionaryArray] = field(
        default=_no_groups, kw_only=True, repr=False
    )

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ids)

    def groups(self, by: Groups) -> pa.DictionaryArray:
        """Return the group of each row, (n,) texts by their codes (`instsel.arrays.labels` sorts them).

        Raises:
            InputError: categories are asked for, and the study has none.
        """
        labels = self.labels_of(by)
        return labels if isinstance(labels, pa.DictionaryArray) else pa.array(labels, pa.string()).dictionary_encode()

    def divided(self, members: Sequence[np.ndarray]) -> list[Self]:
        """Return the data of groups of rows, each as if it were all.

        Rows that do not lie group by group are laid out once more, for all groups together (`instsel.io.matrix.stack`).

        Args:
            members: int64 row numbers of each group, ascending.
        """
        order = np.concatenate([np.empty(0, np.int64), *members])
        laid = self if np.array_equal(order, np.arange(len(self))) else self._taken(order)
        ends = np.cumsum([len(rows) for rows in members]).tolist()
        return [laid._between(end - len(rows), end) for rows, end in zip(members, ends, strict=True)]

    def _taken(self, rows: np.ndarray) -> Self:
        """Return rows by their numbers, laid out anew."""
        arrays = {name: _rows_of(getattr(self, name), rows) for name in self.per_row}
        return self._with_rows([self.ids[row] for row in rows.tolist()], arrays, pa.array(rows))

    def _between(self, start: int, end: int) -> Self:
        """Return consecutive rows, as views."""
        arrays = {name: getattr(self, name)[start:end] for name in self.per_row}
        return self._with_rows(self.ids[start:end], arrays, slice(start, end))

    def _with_rows(self, ids: Sequence[str], arrays: Mapping[str, np.ndarray], rows: pa.Array | slice) -> Self:
        def labels_of(by: Groups) -> pa.DictionaryArray:
            labels = self.groups(by)
            return labels[rows] if isinstance(rows, slice) else labels.take(rows)

        values: dict[str, Any] = {"ids": ids, **arrays, "labels_of": labels_of}
        return replace(self, **values)


@dataclass(frozen=True)
class IndexData(MethodData):
    """The pool's index: `answer_tokens` and `tokens` (prompt and answer), int64 (n,).

    `reference` has the rows of the selection that `Method.refers_to` names, int64 (k,), where a method asks for them.
    """

    per_row: ClassVar[tuple[str, ...]] = ("answer_tokens", "tokens")

    answer_tokens: np.ndarray
    tokens: np.ndarray
    reference: np.ndarray | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class LikelihoodData(MethodData):
    """The base model's mean loss of each answer in nats, float (n,): with its instruction, and alone (NaN: unknown)."""

    per_row: ClassVar[tuple[str, ...]] = ("loss", "loss_alone")

    loss: np.ndarray
    loss_alone: np.ndarray


@dataclass(frozen=True)
class EmbeddingData(MethodData):
    """Prompt embeddings: `values`, float32 (n, e)."""

    per_row: ClassVar[tuple[str, ...]] = ("values",)

    values: np.ndarray


class ColumnData:
    """What data have that come with validation rows: `columns`, m rows of id, target and subtask."""

    columns: pa.Table

    def column_labels(self, key: Literal["target", "subtask"]) -> np.ndarray:
        """Return the target or the subtask of each column, (m,) texts."""
        return np.asarray(self.columns[key].to_pylist())

    def example_reasons(self, selection: Selection) -> list[str]:
        """Name the validation example that drove each pick."""
        names = [f"validation example {row['subtask']}:{row['id']}" for row in self.columns.to_pylist()]
        return [names[driver] for driver in selection.drivers]


@dataclass(frozen=True)
class ValidatedData(MethodData, ColumnData):
    """Vectors, and the validation rows that they are compared with.

    Attributes:
        values: (n, width); may be memory-mapped.
        columns: m rows of id, target and subtask: what rows are compared with.
    """

    per_row: ClassVar[tuple[str, ...]] = ("values",)

    values: np.ndarray
    columns: pa.Table


@dataclass(frozen=True)
class _SomePrompts:
    """Some of the prompts of a pool, in its order."""

    prompts: Iterable[str]
    is_member: np.ndarray

    def __iter__(self) -> Iterator[str]:
        return compress(self.prompts, self.is_member)


@dataclass(frozen=True)
class PromptData(MethodData, ColumnData):
    """The texts of prompts, and those of the validation rows that they are compared with.

    Attributes:
        prompts: n texts. They are read anew by every loop over them, so that not all are in memory.
        columns: m rows of id, target and subtask.
        validation: m texts.
    """

    prompts: Iterable[str]
    columns: pa.Table
    validation: Sequence[str]
    _kept: dict[Hashable, np.ndarray] = field(default_factory=dict, kw_only=True, repr=False, compare=False)

    def divided(self, members: Sequence[np.ndarray]) -> list["PromptData"]:
        """Return the data of groups of rows; their prompts stay where they are."""
        parts = []
        for rows in members:
            is_member = np.zeros(len(self), dtype=bool)
            is_member[rows] = True
            values: dict[str, Any] = {"prompts": _SomePrompts(self.prompts, is_member), "_kept": {}}
            parts.append(replace(self._taken(rows), **values))
        return parts

    def keep(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return what was made of the prompts under this key, made once; only the last is kept."""
        if key not in self._kept:
            self._kept.clear()
            self._kept[key] = make()
        return self._kept[key]


@dataclass(frozen=True)
class InfluenceData(ValidatedData):
    """Influence: `values` is float32 (n, m), positive where training on the row helps the column."""


@dataclass(frozen=True)
class GradientData(ValidatedData):
    """Gradients whose inner products are the influence: `values` (n, C d), `validation` (m, C d), float32."""

    validation: np.ndarray


@dataclass(frozen=True)
class HiddenStateData(ValidatedData):
    """Hidden states: `values` (n, h) of the pool, `validation` (m, h), float32."""

    validation: np.ndarray


def _rows_of(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    if values.ndim == 1:
        taken: np.ndarray = values[rows]
        return taken
    blocks = (values[rows[block]] for block in row_blocks(len(rows), values.shape[1] * values.itemsize))
    return stack(blocks, len(rows), values.shape[1], values.dtype.type)
