"""Shards of gradient features: their format, what they depend on, and reading them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from instsel.arrays import list_rows
from instsel.attribution.scores import second_moment
from instsel.errors import StudyError
from instsel.io.store import Folder

ZERO = "zero gradient"
NOT_FINITE = "non-finite gradient"

Storage = Literal["float16", "int8"]

_PINS = b"instsel.features"
_COLUMNS = {"float16": ["id", "norm", "feature"], "int8": ["id", "norm", "scale", "feature"]}
_TYPES = {"float16": pa.float16(), "int8": pa.int8()}
_LARGEST = 127
_ABSENT = "nothing"


def bytes_per_row(dim: int, storage: Storage) -> int:
    """Bytes that a row's feature of `dim` entries and its norm take in a shard, the id left out."""
    number = np.dtype(np.float32).itemsize
    return number + (2 * dim if storage == "float16" else dim + number)


def normalise(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """L2-normalises rows and sets aside those that have no direction (LESS projects first, then normalises).

    Args:
        features: float32 (n, d).

    Returns:
        Unit rows float32 (k, d) of the k good rows, in order, and their norms float32 (k,); bool (n,), which rows are
        good; and the reasons of the n - k others, in order.

    Raises:
        ValueError: features is not a floating (n, d) array.
    """
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        raise ValueError(f"features are {features.dtype} of shape {features.shape}; expected floating (n, d)")
    # float64: the square of a float32 may overflow, or vanish.
    norms = np.sqrt(np.einsum("nd,nd->n", features, features, dtype=np.float64))
    finite = norms <= np.finfo(np.float32).max
    good = finite & (norms > 0)
    unit = (features[good] / norms[good, None]).astype(np.float32)
    reasons = [ZERO if row else NOT_FINITE for row in finite[~good]]
    return unit, norms[good].astype(np.float32), good, reasons


def feature_table(
    ids: Sequence[str], unit: np.ndarray, norms: np.ndarray, provenance: Mapping[str, Any], storage: Storage = "float16"
) -> pa.Table:
    """One shard as a table.

    Args:
        ids: Row ids, n of them, each once.
        unit: (n, d) L2-normalised rows.
        norms: (n,) lengths that the rows had; the mean gradient of several rows is made of rows times norms.
        provenance: What the features depend on (model, adapter, moments, tokenizer, template, sketch, ...); JSON
            values.
        storage: float16 keeps the rows as they are; int8 rounds each to 127 steps of its largest entry either way.

    Returns:
        Columns id (string), norm (float32), for int8 scale (float32), and feature (FixedSizeList<float16 or int8, d>),
        one chunk each; `provenance` in the schema's metadata. An int8 row times its scale is the row.

    Raises:
        ValueError: Lengths differ, an id comes twice, or a row is not of unit length.
    """
    if unit.ndim != 2 or not len(ids) == len(unit) == len(norms):
        raise ValueError(f"{len(ids)} ids, {len(norms)} norms for features of shape {unit.shape}; expected one a row")
    if len(set(ids)) != len(ids):
        raise ValueError("a row id comes twice; expected every id once")
    lengths = np.sqrt(np.einsum("nd,nd->n", unit, unit, dtype=np.float64))
    off = np.flatnonzero(~(np.abs(lengths - 1.0) <= 1e-2))
    if len(off):
        raise ValueError(f"row {ids[off[0]]} has length {lengths[off[0]]}; expected L2-normalised rows")
    columns: dict[str, pa.Array] = {"id": pa.array(ids, pa.string()), "norm": pa.array(norms, pa.float32())}
    if storage == "int8":
        unit, scale = _quantised(unit)
        columns["scale"] = pa.array(scale)
    values = pa.array(np.ascontiguousarray(unit, dtype=storage).reshape(-1))
    columns["feature"] = pa.FixedSizeListArray.from_arrays(values, unit.shape[1])
    return pa.table(columns).replace_schema_metadata({_PINS: json.dumps(provenance, sort_keys=True).encode()})


def read_features(table: pa.Table) -> tuple[list[str], np.ndarray]:
    """Ids and features of a shard; of a memory-mapped one, a read-only view of the file's pages.

    Returns:
        The n ids, and float16 or int8 (n, d). An int8 row is its feature but for the length, which attribution, where
        every row is normalised, does not look at; the column scale has it.

    Raises:
        ValueError: It is no feature shard.
    """
    kind = next((storage for storage, columns in _COLUMNS.items() if table.column_names == columns), None)
    if kind is None or not _is_list_of(table.schema.field("feature").type, _TYPES[kind]):
        raise ValueError(
            f"columns are {table.schema.names}; expected a feature shard: id, norm, scale if int8, and feature"
        )
    return table.column("id").to_pylist(), list_rows(table.column("feature"))


def read_norms(table: pa.Table) -> np.ndarray:
    """Lengths that the rows of a feature shard had before they were normalised, float32 (n,)."""
    norms: np.ndarray = table.column("norm").to_numpy()
    return norms


def read_pins(schema: pa.Schema) -> dict[str, Any]:
    """What the writer of a shard with this schema said its features depend on.

    Raises:
        ValueError: It is no feature shard's.
    """
    metadata = schema.metadata or {}
    if _PINS not in metadata:
        raise ValueError(f"columns {schema.names} without {_PINS.decode()} metadata; expected a feature shard")
    return dict(json.loads(metadata[_PINS]))


def require_provenance(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuses features that depend on anything else than expected.

    Args:
        found: Pins of a shard.
        expected: The pins it should have.

    Raises:
        ValueError: They differ; every key that does is listed with both values, parts of a value as `key.part`.
    """
    ours, theirs = _flat(found), _flat(expected)
    differences = [
        f"{key} is {ours.get(key, _ABSENT)}, expected {theirs.get(key, _ABSENT)}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key, _ABSENT) != theirs.get(key, _ABSENT)
    ]
    if differences:
        raise ValueError("; ".join(differences))


def _quantised(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows rounded to whole multiples of their scale, int8 (n, d), and the scales, float32 (n,)."""
    scale = (np.abs(unit).max(axis=1, initial=0) / _LARGEST).astype(np.float32)
    return np.rint(unit / scale[:, None]).astype(np.int8), scale


def _is_list_of(kind: pa.DataType, value: pa.DataType) -> bool:
    return pa.types.is_fixed_size_list(kind) and kind.value_type == value


def _flat(provenance: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value by its path through the nested mappings, as JSON text."""
    flat: dict[str, Any] = {}
    for key, value in provenance.items():
        whole = not (isinstance(value, Mapping) and value)
        flat |= {f"{prefix}{key}": json.dumps(value)} if whole else _flat(value, f"{prefix}{key}.")
    return flat


Provenance = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Checkpoint -> kind of rows (pool, validation) -> what their features depend on."""


class GradientShards:
    """The features of a study, by shard; each one is refused that was made from anything else than the pins say."""

    def __init__(self, folder: Folder, provenance: Provenance) -> None:
        self.folder, self.provenance = folder, provenance

    def table(self, checkpoint: str, kind: str, name: str) -> pa.Table:
        """One shard as it is stored, of the pool by its name or of `validation` by its target; local ones are mapped.

        Raises:
            StudyError: it was made from something else than the pins say.
        """
        table = (self.folder / checkpoint / kind).read_table(f"{name}.arrow")
        try:
            require_provenance(read_pins(table.schema), self.provenance[checkpoint][kind])
        except ValueError as error:
            raise StudyError(
                f"features/{checkpoint}/{kind}/{name}.arrow is not of this study: {error}; "
                "delete the study's features folder and run again"
            ) from error
        return table

    def pool(self, shard: str) -> tuple[list[str], list[np.ndarray]]:
        """Ids of a shard's rows that have a feature at every checkpoint, and those features, (rows, d) a checkpoint."""
        return _common([read_features(self.table(name, "pool", shard)) for name in self.provenance])

    def ids(self, shard: str) -> list[str]:
        """Ids of a shard's rows that have a feature at the first checkpoint; no feature is read."""
        ids: list[str] = self.table(next(iter(self.provenance)), "pool", shard)["id"].to_pylist()
        return ids

    def validation(self, columns: pa.Table) -> list[np.ndarray]:
        """Gradients, not normalised, float32 (m, d) a checkpoint, of the validation rows that `columns` lists."""
        return [self._validation(checkpoint, columns) for checkpoint in self.provenance]

    def second_moment(self, shards: Sequence[str], checkpoint: int) -> tuple[np.ndarray, int]:
        """Sum u u^T over the unit rows u of at least one shard, in order.

        Args:
            shards: names.
            checkpoint: its place among the pins.

        Returns:
            float64 (d, d), and the rows that it is of.
        """
        total: np.ndarray = np.zeros(())
        rows = 0
        for number, shard in enumerate(shards):
            ids, checkpoints = self.pool(shard)
            part = second_moment(checkpoints[checkpoint])
            total = part if number == 0 else np.add(total, part, out=total)
            rows += len(ids)
        return total, rows

    def validation_rows(self, name: str) -> tuple[list[str], list[np.ndarray]]:
        """Ids of a table of validation rows that have a gradient at every checkpoint, and those, as `validation`."""
        return _common([_lengthened(self.table(checkpoint, "validation", name)) for checkpoint in self.provenance])

    def grouped_sums(self, shard: str, group_of: Mapping[str, int], groups: int) -> tuple[np.ndarray, np.ndarray]:
        """Sum a shard's directions, not normalised, by groups.

        Args:
            shard: name.
            group_of: row -> number of its group; rows without one are left out.
            groups: number of groups.

        Returns:
            float64 (checkpoints, groups, d), and int64 (groups,), the rows in each.
        """
        ids, checkpoints = _common(
            [_lengthened(self.table(checkpoint, "pool", shard)) for checkpoint in self.provenance]
        )
        members = np.array([group_of.get(row, groups) for row in ids])
        sums = np.zeros((len(checkpoints), groups, checkpoints[0].shape[1]))
        for group in np.unique(members[members < groups]):
            for place, rows in enumerate(checkpoints):
                sums[place, group] = rows[members == group].sum(axis=0, dtype=np.float64)
        return sums, np.bincount(members, minlength=groups + 1)[:groups].astype(np.int64)

    def _validation(self, checkpoint: str, columns: pa.Table) -> np.ndarray:
        rows: dict[str, np.ndarray] = {}
        for target in dict.fromkeys(columns["target"].to_pylist()):
            ids, gradients = _lengthened(self.table(checkpoint, "validation", target))
            rows |= dict(zip(ids, gradients, strict=True))
        return np.stack([rows[name] for name in columns["id"].to_pylist()])


def _common(found: list[tuple[list[str], np.ndarray]]) -> tuple[list[str], list[np.ndarray]]:
    """Ids that all have, and their rows in each."""
    common = set(found[0][0]).intersection(*(ids for ids, _ in found[1:]))
    ids = [row for row in found[0][0] if row in common]
    if all(len(own) == len(ids) for own, _ in found):
        return ids, [rows for _, rows in found]
    return ids, [rows[[row in common for row in own]] for own, rows in found]


def _lengthened(table: pa.Table) -> tuple[list[str], np.ndarray]:
    """Ids of a feature shard and its rows at the length that they had before they were normalised, float32 (n, d)."""
    ids, features = read_features(table)
    rows = features.astype(np.float32)
    rows *= (read_norms(table) / np.linalg.norm(rows, axis=1))[:, None]
    return ids, rows


def validation_columns(
    prepared: Folder,
    subtasks: Mapping[str, str | None],
    rejected: Mapping[str, str],
    targets: Sequence[str] | None = None,
) -> pa.Table:
    """The validation rows that have a gradient, one line each: id, target, subtask.

    Args:
        prepared: folder of stage *prepare*.
        subtasks: target -> the column that divides it, or None: the target is then its only subtask.
        rejected: ids of rows without a usable gradient.
        targets: those that are wanted; default all.

    Raises:
        StudyError: a target has no row with a usable gradient.
    """
    found: list[dict[str, Any]] = []
    # In one order whatever that of the study file, which its JSON copies do not keep.
    for name, column in sorted(subtasks.items()):
        if targets is not None and name not in targets:
            continue
        rows = (prepared / "targets" / name).read_table("validation.parquet", ["id", "task"]).to_pylist()
        kept = [row for row in rows if row["id"] not in rejected]
        if not kept:
            raise StudyError(f"targets.{name}: no validation row has a usable gradient; lower the warmup learning rate")
        for row in kept:
            subtask = f"{name}/{row['task']}" if column and row["task"] else name
            found.append({"id": row["id"], "target": name, "subtask": subtask})
    return pa.Table.from_pylist(found)
