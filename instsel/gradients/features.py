"""Shards of gradient features: file format, provenance, and reader."""

import json
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import JsonValue

from instsel.arrays import list_rows
from instsel.attribution.scores import second_moment
from instsel.errors import StudyError
from instsel.io.store import Folder

ZERO = "zero gradient"
NOT_FINITE = "non-finite gradient"

Storage = Literal["float16", "int8"]

_METADATA = b"instsel.features"
_COLUMNS = {"float16": ["id", "norm", "feature"], "int8": ["id", "norm", "scale", "feature"]}
_TYPES = {"float16": pa.float16(), "int8": pa.int8()}
_LARGEST = 127
_ABSENT = "nothing"


def bytes_per_row(dim: int, storage: Storage) -> int:
    """Return the bytes that the feature of a row, with `dim` entries, and its norm take in a shard, without the id."""
    float32 = np.dtype(np.float32).itemsize
    return float32 + (2 * dim if storage == "float16" else dim + float32)


def normalise(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """L2-normalise rows and reject those without a direction (LESS projects first, then normalises).

    The norms are kept, and a bad row is a result here and not an error as in `arrays.unit_rows`.

    Args:
        features: float32 (n, d).

    Returns:
        Unit rows float32 (k, d) of the k good rows, in order; their norms float32 (k,); a mask bool (n,) of the good
        rows; and the reasons of the n - k rejected rows, in order.

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
    ids: Sequence[str],
    unit: np.ndarray,
    norms: np.ndarray,
    provenance: Mapping[str, JsonValue],
    storage: Storage = "float16",
) -> pa.Table:
    """Build the table of a shard.

    Args:
        ids: n distinct row ids.
        unit: (n, d) L2-normalised rows.
        norms: (n,) lengths before normalisation; rows times norms are averaged for the mean gradient of several rows.
        provenance: What the features depend on (model, adapter, moments, tokenizer, template, sketch, ...); JSON
            values.
        storage: float16 stores the rows directly; int8 rounds entries to multiples of 1/127 of the row's largest.

    Returns:
        Columns id (string), norm (float32), for int8 scale (float32), and feature (FixedSizeList<float16 or int8, d>),
        one chunk each; `provenance` is in the schema's metadata. An int8 row times its scale is the row.

    Raises:
        ValueError: Lengths differ, an id occurs twice, or a row does not have length 1.
    """
    if unit.ndim != 2 or not len(ids) == len(unit) == len(norms):
        raise ValueError(f"{len(ids)} ids, {len(norms)} norms for features of shape {unit.shape}; expected one per row")
    if len(set(ids)) != len(ids):
        raise ValueError("a row id occurs twice; expected every id once")
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
    return pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(provenance, sort_keys=True).encode()})


def read_features(table: pa.Table) -> tuple[list[str], np.ndarray]:
    """Read ids and features of a shard; if it is memory-mapped, the features are a read-only view of the file's pages.

    Returns:
        The n ids, and float16 or int8 (n, d). An int8 row is its feature up to a factor, the column scale, which does
        not matter for attribution, as it normalises every row.

    Raises:
        ValueError: The table is not a feature shard.
    """
    kind = next((storage for storage, columns in _COLUMNS.items() if table.column_names == columns), None)
    if kind is None or not _is_list_of(table.schema.field("feature").type, _TYPES[kind]):
        raise ValueError(
            f"columns are {table.schema.names}; expected a feature shard: id, norm, scale if int8, and feature"
        )
    return table.column("id").to_pylist(), list_rows(table.column("feature"))


def read_norms(table: pa.Table) -> np.ndarray:
    """Read the lengths of a feature shard's rows before normalisation, float32 (n,)."""
    norms: np.ndarray = table.column("norm").to_numpy()
    return norms


def read_provenance(schema: pa.Schema) -> dict[str, JsonValue]:
    """Read from a shard's schema what its features depend on.

    Raises:
        ValueError: The schema is not that of a feature shard.
    """
    metadata = schema.metadata or {}
    if _METADATA not in metadata:
        raise ValueError(f"columns {schema.names} without {_METADATA.decode()} metadata; expected a feature shard")
    return dict(json.loads(metadata[_METADATA]))


def require_provenance(actual: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Check that features depend on exactly what is expected.

    Args:
        actual: Provenance of a shard.
        expected: Provenance it should have.

    Raises:
        ValueError: They differ; every differing key is listed with both values, nested keys as `key.part`.
    """
    got, wanted = _flat(actual), _flat(expected)
    differences = [
        f"{key} is {got.get(key, _ABSENT)}, expected {wanted.get(key, _ABSENT)}"
        for key in sorted(got.keys() | wanted.keys())
        if got.get(key, _ABSENT) != wanted.get(key, _ABSENT)
    ]
    if differences:
        raise ValueError("; ".join(differences))


def _quantised(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round rows to multiples of their scale: int8 (n, d), and the scales, float32 (n,)."""
    scale = (np.abs(unit).max(axis=1, initial=0) / _LARGEST).astype(np.float32)
    return np.rint(unit / scale[:, None]).astype(np.int8), scale


def _is_list_of(kind: pa.DataType, value: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) and kind.value_type == value)


def _flat(provenance: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Flatten nested mappings to dotted keys with values as JSON text."""
    flat: dict[str, str] = {}
    for key, value in provenance.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value)
    return flat


Provenance = Mapping[str, Mapping[str, Mapping[str, JsonValue]]]
"""For each checkpoint and kind of rows (pool, validation), what their features depend on."""


class GradientShards:
    """The features of a study, by shard; a shard with another provenance than the study's is an error."""

    def __init__(self, folder: Folder, provenance: Provenance) -> None:
        self.folder, self.provenance = folder, provenance

    def table(self, checkpoint: str, kind: str, name: str) -> pa.Table:
        """Read a shard as it is stored: of the pool by its name, of `validation` by its target; local files are mapped.

        Raises:
            StudyError: the shard has another provenance.
        """
        table = (self.folder / checkpoint / kind).read_table(f"{name}.arrow")
        try:
            require_provenance(read_provenance(table.schema), self.provenance[checkpoint][kind])
        except ValueError as error:
            raise StudyError(
                f"features/{checkpoint}/{kind}/{name}.arrow is not of this study: {error}; "
                "delete the study's features folder and run again"
            ) from error
        return table

    def pool(self, shard: str) -> tuple[list[str], list[np.ndarray]]:
        """Read the ids of the rows with a feature at every checkpoint, and these features, (rows, d) per checkpoint."""
        return _common([read_features(self.table(name, "pool", shard)) for name in self.provenance])

    def validation(self, columns: pa.Table) -> list[np.ndarray]:
        """Read the gradients, not normalised, of the validation rows in `columns`: float32 (m, d) per checkpoint."""
        return [self._validation(checkpoint, columns) for checkpoint in self.provenance]

    def second_moment(
        self, shards: Sequence[str], checkpoint: int, strip: slice = slice(None)
    ) -> tuple[np.ndarray, int]:
        """Sum u u^T over the unit rows u of one or more shards, in order.

        Args:
            shards: names of the shards.
            checkpoint: index of the checkpoint.
            strip: rows of the sum to return, see `attribution.scores.second_moment`.

        Returns:
            float64 (d, d), or its strip, and the number of rows.
        """
        total: np.ndarray = np.zeros(())
        rows = 0
        for index, shard in enumerate(shards):
            ids, checkpoints = self.pool(shard)
            part = second_moment(checkpoints[checkpoint], strip=strip)
            total = part if index == 0 else np.add(total, part, out=total)
            rows += len(ids)
        return total, rows

    def validation_rows(self, name: str) -> tuple[list[str], list[np.ndarray]]:
        """Read the ids of a target's rows with a gradient at every checkpoint, and these gradients, as `validation`."""
        return _common([_gradients(self.table(checkpoint, "validation", name)) for checkpoint in self.provenance])

    def grouped_sums(self, shard: str, group_of: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sum a shard's directions, not normalised, by group.

        Args:
            shard: name of the shard.
            group_of: number of each row's group by row id; rows without an entry are skipped.

        Returns:
            The g groups that the shard has rows of, sorted, int64 (g,); sums float64 (checkpoints, g, d); and the
            number of rows of each, int64 (g,).
        """
        ids, checkpoints = _common(
            [_gradients(self.table(checkpoint, "pool", shard)) for checkpoint in self.provenance]
        )
        members = np.array([group_of.get(row, -1) for row in ids], np.int64)
        groups, counts = np.unique(members[members >= 0], return_counts=True)
        sums = np.empty((len(checkpoints), len(groups), checkpoints[0].shape[1]))
        for position, group in enumerate(groups):
            for checkpoint, rows in enumerate(checkpoints):
                sums[checkpoint, position] = rows[members == group].sum(axis=0, dtype=np.float64)
        return groups, sums, counts

    def _validation(self, checkpoint: str, columns: pa.Table) -> np.ndarray:
        rows: dict[str, np.ndarray] = {}
        for target in dict.fromkeys(columns["target"].to_pylist()):
            ids, gradients = _gradients(self.table(checkpoint, "validation", target))
            rows |= dict(zip(ids, gradients, strict=True))
        return np.stack([rows[name] for name in columns["id"].to_pylist()])


def _common(parts: list[tuple[list[str], np.ndarray]]) -> tuple[list[str], list[np.ndarray]]:
    """Restrict parts (ids, rows) to the ids that all of them have."""
    common = set(parts[0][0]).intersection(*(ids for ids, _ in parts[1:]))
    shared = [row for row in parts[0][0] if row in common]
    if all(len(ids) == len(shared) for ids, _ in parts):
        return shared, [rows for _, rows in parts]
    return shared, [rows[[row in common for row in ids]] for ids, rows in parts]


def _gradients(table: pa.Table) -> tuple[list[str], np.ndarray]:
    """Read ids and rows of a feature shard at their length before normalisation, float32 (n, d)."""
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
    """List the validation rows that have a gradient: a table with columns id, target, subtask.

    Args:
        prepared: folder of stage *prepare*.
        subtasks: by target, the column that divides it into subtasks; with None the target is its only subtask.
        rejected: ids of rows without a usable gradient.
        targets: targets to list; default all.

    Raises:
        StudyError: a target has no row with a usable gradient.
    """
    columns: list[dict[str, str]] = []
    # Sorted, as JSON copies of a study file do not keep its order.
    for name, column in sorted(subtasks.items()):
        if targets is not None and name not in targets:
            continue
        rows = (prepared / "targets" / name).read_table("validation.parquet", ["id", "task"]).to_pylist()
        kept = [row for row in rows if row["id"] not in rejected]
        if not kept:
            raise StudyError(f"targets.{name}: no validation row has a usable gradient; lower the warmup learning rate")
        for row in kept:
            subtask = f"{name}/{row['task']}" if column and row["task"] else name
            columns.append({"id": row["id"], "target": name, "subtask": subtask})
    return pa.Table.from_pylist(columns)
