"""Feature shards: normalising, writing, memory-mapping."""

import numpy as np
import pyarrow as pa
import pytest

from instsel.gradients.store import NOT_FINITE, ZERO, feature_table, normalise, read_features, read_pins
from instsel.storage import Folder


def unit_rows(count, dim=6):
    rows = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)
    return normalise(rows)[0]


def test_rows_come_out_at_length_one_and_rows_without_direction_are_set_aside():
    features = np.array([[3, 4], [0, 0], [np.nan, 1], [1e-30, 0], [np.inf, 0], [1e30, 1e30]], dtype=np.float32)
    unit, good, reasons = normalise(features)
    assert good.tolist() == [True, False, False, True, False, True]
    assert reasons == [ZERO, NOT_FINITE, NOT_FINITE]
    np.testing.assert_allclose(unit, [[0.6, 0.8], [1, 0], [0.5**0.5, 0.5**0.5]], rtol=1e-6)
    assert unit.dtype == np.float32


def test_no_rows_are_no_trouble():
    unit, good, reasons = normalise(np.zeros((0, 4), dtype=np.float32))
    assert unit.shape == (0, 4) and good.shape == (0,) and reasons == []


@pytest.mark.parametrize("features", [np.zeros(3, dtype=np.float32), np.zeros((2, 3), dtype=np.int64)])
def test_normalise_refuses_other_arrays(features):
    with pytest.raises(ValueError, match="expected floating"):
        normalise(features)


def test_a_shard_is_read_back_as_a_view_of_the_file(tmp_path):
    unit, pins = unit_rows(5), {"sketch": {"dim": 6, "seed": 0}, "model": "tiny"}
    folder = Folder.at(tmp_path)
    folder.write_table("0.arrow", feature_table(list("abcde"), unit, pins))
    table = folder.read_table("0.arrow")
    ids, features = read_features(table)
    assert ids == list("abcde")
    assert features.dtype == np.float16 and not features.flags.owndata and not features.flags.writeable
    np.testing.assert_array_equal(features, unit.astype(np.float16))
    assert read_pins(table) == pins
    assert table.schema.field("feature").type == pa.list_(pa.float16(), 6)


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name, pins in (("a", {"x": 1, "y": 2}), ("b", {"y": 2, "x": 1})):
        Folder.at(tmp_path).write_table(f"{name}.arrow", feature_table(["r"], unit_rows(1), pins))
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()


def test_a_table_and_a_slice_of_it_can_be_read():
    unit = unit_rows(5)
    ids, features = read_features(feature_table(list("abcde"), unit, {}).slice(1, 3))
    assert ids == ["b", "c", "d"]
    np.testing.assert_array_equal(features, unit[1:4].astype(np.float16))


def test_a_shard_may_be_empty():
    ids, features = read_features(feature_table([], np.zeros((0, 6), dtype=np.float32), {}))
    assert ids == [] and features.shape == (0, 6)


@pytest.mark.parametrize(
    ("ids", "unit", "message"),
    [
        (["a"], unit_rows(2), "1 ids for features"),
        (["a", "a"], unit_rows(2), "twice"),
        (["a", "b"], unit_rows(2) * 1.1, "row a has length 1.1"),
        (["a"], np.full((1, 6), np.nan), "row a has length nan"),
    ],
)
def test_wrong_rows_are_refused(ids, unit, message):
    with pytest.raises(ValueError, match=message):
        feature_table(ids, unit, {})


def test_another_table_is_refused():
    table = pa.table({"id": ["a"], "feature": [1.0]})
    with pytest.raises(ValueError, match="feature shard"):
        read_features(table)
    with pytest.raises(ValueError, match="feature shard"):
        read_pins(table)
