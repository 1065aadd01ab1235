"""Feature shards: normalising, writing, memory-mapping."""

import numpy as np
import pyarrow as pa
import pytest

from instsel.arrays import unit_rows as attribution_rows
from instsel.gradients.features import (
    NOT_FINITE,
    ZERO,
    bytes_per_row,
    feature_table,
    normalise,
    read_features,
    read_norms,
    read_provenance,
    require_provenance,
)
from instsel.io.store import Folder


def unit_rows(count, dim=6):
    rows = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)
    return normalise(rows)[0]


def test_rows_come_out_at_length_one_and_rows_without_direction_are_set_aside():
    features = np.array([[3, 4], [0, 0], [np.nan, 1], [1e-30, 0], [np.inf, 0], [1e30, 1e30]], dtype=np.float32)
    unit, norms, good, reasons = normalise(features)
    assert good.tolist() == [True, False, False, True, False, True]
    assert reasons == [ZERO, NOT_FINITE, NOT_FINITE]
    np.testing.assert_allclose(unit, [[0.6, 0.8], [1, 0], [0.5**0.5, 0.5**0.5]], rtol=1e-6)
    np.testing.assert_allclose(norms, [5, 1e-30, 2**0.5 * 1e30], rtol=1e-6)
    assert unit.dtype == norms.dtype == np.float32


def test_no_rows_are_no_trouble():
    unit, norms, good, reasons = normalise(np.zeros((0, 4), dtype=np.float32))
    assert unit.shape == (0, 4)
    assert norms.shape == good.shape == (0,)
    assert reasons == []


@pytest.mark.parametrize("features", [np.zeros(3, dtype=np.float32), np.zeros((2, 3), dtype=np.int64)])
def test_normalise_refuses_other_arrays(features):
    with pytest.raises(ValueError, match="expected floating"):
        normalise(features)


def test_a_shard_is_read_back_as_a_view_of_the_file(tmp_path):
    unit, provenance = unit_rows(5), {"sketch": {"dim": 6, "seed": 0}, "model": "tiny"}
    folder = Folder.at(tmp_path)
    folder.write_table("0.arrow", feature_table(list("abcde"), unit, np.arange(5.0), provenance))
    table = folder.read_table("0.arrow")
    ids, features = read_features(table)
    assert ids == list("abcde")
    assert features.dtype == np.float16
    assert not features.flags.owndata
    assert not features.flags.writeable
    np.testing.assert_array_equal(features, unit.astype(np.float16))
    assert read_norms(table).tolist() == [0, 1, 2, 3, 4]
    assert read_provenance(table.schema) == provenance
    assert table.schema.field("feature").type == pa.list_(pa.float16(), 6)


def test_int8_rows_are_whole_multiples_of_their_scale_read_as_a_view_of_the_file(tmp_path):
    unit = unit_rows(5, dim=512)
    folder = Folder.at(tmp_path)
    folder.write_table("0.arrow", feature_table(list("abcde"), unit, np.arange(5.0), {}, "int8"))
    table = folder.read_table("0.arrow")
    ids, features = read_features(table)
    assert ids == list("abcde")
    assert features.dtype == np.int8
    assert not features.flags.owndata
    assert np.abs(features).max(axis=1).tolist() == [127] * 5
    scale = table["scale"].to_numpy()
    assert table.column_names == ["id", "norm", "scale", "feature"]
    assert scale.dtype == np.float32
    # Half a step, and what float32 rounds.
    assert np.all(np.abs(features * scale[:, None] - unit) <= 0.5001 * scale[:, None])
    # Attribution needs no scale: it normalises rows itself.
    assert np.sum(attribution_rows(features) * unit, axis=1).min() > 0.9999


@pytest.mark.parametrize(("storage", "entry"), [("float16", 2), ("int8", 1)])
def test_a_row_takes_the_bytes_it_is_said_to(storage, entry, tmp_path):
    sizes = {}
    for count in (100, 300):
        table = feature_table(
            [f"{row:08d}" for row in range(count)], unit_rows(count, dim=1024), np.ones(count), {}, storage
        )
        Folder.at(tmp_path).write_table(f"{count}.arrow", table)
        sizes[count] = (tmp_path / f"{count}.arrow").stat().st_size
    identifier = 8 + 4
    assert (sizes[300] - sizes[100]) / 200 == pytest.approx(bytes_per_row(1024, storage) + identifier, abs=1)
    assert bytes_per_row(1024, storage) == 1024 * entry + 4 + (4 if storage == "int8" else 0)


PROVENANCE = {
    "model": {"config.json": "a", "model.safetensors": "b"},
    "moments": "m",
    "sketch": {"dim": 64, "seed": 0},
    "gradient": {"kind": "Adam direction", "betas": [0.9, 0.999]},
}


def test_equal_pins_are_let_through_in_any_order():
    require_provenance(dict(reversed(PROVENANCE.items())), PROVENANCE)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"moments": None}, 'moments is null, expected "m"'),
        (
            {"moments": "n", "sketch": {"dim": 64, "seed": 1}},
            'moments is "n", expected "m"; sketch.seed is 1, expected 0',
        ),
        ({"model": {"config.json": "a"}}, 'model.model.safetensors is nothing, expected "b"'),
        ({"storage": "int8"}, 'storage is "int8", expected nothing'),
        (
            {"gradient": {**PROVENANCE["gradient"], "betas": [0.9, 0.95]}},
            "gradient.betas is [0.9, 0.95], expected [0.9, 0.999]",
        ),
    ],
)
def test_other_pins_are_refused_and_exactly_what_differs_is_named(changed, message):
    with pytest.raises(ValueError) as error:
        require_provenance({**PROVENANCE, **changed}, PROVENANCE)
    assert str(error.value) == message


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name, provenance in (("a", {"x": 1, "y": 2}), ("b", {"y": 2, "x": 1})):
        Folder.at(tmp_path).write_table(f"{name}.arrow", feature_table(["r"], unit_rows(1), np.ones(1), provenance))
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()


def test_a_table_and_a_slice_of_it_can_be_read():
    unit = unit_rows(5)
    ids, features = read_features(feature_table(list("abcde"), unit, np.arange(5.0), {}).slice(1, 3))
    assert ids == ["b", "c", "d"]
    np.testing.assert_array_equal(features, unit[1:4].astype(np.float16))


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_a_shard_may_be_empty(storage):
    ids, features = read_features(feature_table([], np.zeros((0, 6), dtype=np.float32), np.zeros(0), {}, storage))
    assert ids == []
    assert features.shape == (0, 6)


@pytest.mark.parametrize(
    ("ids", "unit", "message"),
    [
        (["a"], unit_rows(2), "1 ids, 2 norms for features"),
        (["a", "a"], unit_rows(2), "twice"),
        (["a", "b"], unit_rows(2) * 1.1, "row a has length 1.1"),
        (["a"], np.full((1, 6), np.nan), "row a has length nan"),
    ],
)
def test_wrong_rows_are_refused(ids, unit, message):
    with pytest.raises(ValueError, match=message):
        feature_table(ids, unit, np.ones(len(unit)), {})


@pytest.mark.parametrize("columns", [{"feature": [1.0]}, {"feature": pa.array([[1]], pa.list_(pa.int8(), 1))}])
def test_another_table_is_refused(columns):
    table = pa.table({"id": ["a"], **columns})
    with pytest.raises(ValueError, match="feature shard"):
        read_features(table)
    with pytest.raises(ValueError, match="feature shard"):
        read_provenance(table.schema)
