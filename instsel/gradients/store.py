"""Feature shards: memory-mappable Arrow IPC files of row ids, L2-normalised features, and what pins them.

Features are kept as float16, or as int8 with a float32 scale a row, which takes half the space.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from instsel.blocks import list_rows

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
    ids: Sequence[str], unit: np.ndarray, norms: np.ndarray, pins: Mapping[str, Any], storage: Storage = "float16"
) -> pa.Table:
    """One shard as a table.

    Args:
        ids: Row ids, n of them, each once.
        unit: (n, d) L2-normalised rows.
        norms: (n,) lengths that the rows had; the mean gradient of several rows is made of rows times norms.
        pins: What the features depend on (model, adapter, moments, tokenizer, template, sketch, ...); JSON values.
        storage: float16 keeps the rows as they are; int8 rounds each to 127 steps of its largest entry either way.

    Returns:
        Columns id (string), norm (float32), for int8 scale (float32), and feature (FixedSizeList<float16 or int8, d>),
        one chunk each; `pins` in the schema's metadata. An int8 row times its scale is the row.

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
    return pa.table(columns).replace_schema_metadata({_PINS: json.dumps(pins, sort_keys=True).encode()})


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


def require_pins(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
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


def _flat(pins: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value by its path through the nested mappings, as JSON text."""
    flat: dict[str, Any] = {}
    for key, value in pins.items():
        whole = not (isinstance(value, Mapping) and value)
        flat |= {f"{prefix}{key}": json.dumps(value)} if whole else _flat(value, f"{prefix}{key}.")
    return flat
