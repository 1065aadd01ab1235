"""Feature shards: memory-mappable Arrow IPC files of row ids, L2-normalised float16 features, and what pins them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

ZERO = "zero gradient"
NOT_FINITE = "non-finite gradient"

_PINS = b"instsel.features"


def normalise(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """L2-normalises rows and sets aside those that have no direction (LESS projects first, then normalises).

    Args:
        features: float32 (n, d).

    Returns:
        Unit rows float32 (k, d) of the k good rows, in order; bool (n,), which rows are good; and the reasons of the
        n - k others, in order.

    Raises:
        ValueError: features is not a floating (n, d) array.
    """
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        raise ValueError(f"features are {features.dtype} of shape {features.shape}; expected floating (n, d)")
    # float64: the square of a float32 may overflow, or vanish.
    norms = np.sqrt(np.einsum("nd,nd->n", features, features, dtype=np.float64))
    finite = np.isfinite(norms)
    good = finite & (norms > 0)
    unit = (features[good] / norms[good, None]).astype(np.float32)
    reasons = [ZERO if row else NOT_FINITE for row in finite[~good]]
    return unit, good, reasons


def feature_table(ids: Sequence[str], unit: np.ndarray, pins: Mapping[str, Any]) -> pa.Table:
    """One shard as a table.

    Args:
        ids: Row ids, n of them, each once.
        unit: (n, d) L2-normalised rows; kept as float16.
        pins: What the features depend on (model, adapter, moments, tokenizer, template, sketch, ...); JSON values.

    Returns:
        Columns id (string) and feature (FixedSizeList<float16, d>), one chunk each; `pins` in the schema's metadata.

    Raises:
        ValueError: Lengths differ, an id comes twice, or a row is not of unit length.
    """
    if unit.ndim != 2 or len(ids) != len(unit):
        raise ValueError(f"{len(ids)} ids for features of shape {unit.shape}; expected one id a row")
    if len(set(ids)) != len(ids):
        raise ValueError("a row id comes twice; expected every id once")
    norms = np.sqrt(np.einsum("nd,nd->n", unit, unit, dtype=np.float64))
    off = np.flatnonzero(~(np.abs(norms - 1.0) <= 1e-2))
    if len(off):
        raise ValueError(f"row {ids[off[0]]} has length {norms[off[0]]}; expected L2-normalised rows")
    values = pa.array(np.ascontiguousarray(unit, dtype=np.float16).reshape(-1))
    columns = {"id": pa.array(ids, pa.string()), "feature": pa.FixedSizeListArray.from_arrays(values, unit.shape[1])}
    table = pa.table(columns)
    return table.replace_schema_metadata({_PINS: json.dumps(pins, sort_keys=True).encode()})


def read_features(table: pa.Table) -> tuple[list[str], np.ndarray]:
    """Ids and float16 (n, d) features of a shard; of a memory-mapped one, a read-only view of the file's pages.

    Raises:
        ValueError: It is no feature shard.
    """
    if table.column_names != ["id", "feature"] or not pa.types.is_fixed_size_list(table.schema.field("feature").type):
        raise ValueError(f"columns are {table.column_names}; expected a feature shard with id and feature")
    features = table.column("feature").combine_chunks()
    shape = (len(table), features.type.list_size)
    return table.column("id").to_pylist(), features.flatten().to_numpy(zero_copy_only=True).reshape(shape)


def read_pins(table: pa.Table) -> dict[str, Any]:
    """What the shard's writer said its features depend on.

    Raises:
        ValueError: It is no feature shard.
    """
    metadata = table.schema.metadata or {}
    if _PINS not in metadata:
        raise ValueError(f"columns {table.column_names} without {_PINS.decode()} metadata; expected a feature shard")
    return dict(json.loads(metadata[_PINS]))
