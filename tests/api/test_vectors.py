"""Vectors of several files, read as they are stored and decoded when they are asked for."""

import numpy as np
import pyarrow as pa
import pytest

from instsel.api.vectors import Block, Vectors
from instsel.errors import InputError
from instsel.gradients.features import feature_table, normalise
from instsel.io.store import Folder

IDS = {"a": ["r0", "r1", "r2"], "b": ["r3", "r4"]}


def features(folder, storage, width=16):
    """Feature shards a and b, and what was put into them: unit rows and norms."""
    rows = np.random.default_rng(0).normal(size=(5, width)).astype(np.float32)
    unit, norms, _, _ = normalise(rows)
    starts = {"a": slice(0, 3), "b": slice(3, 5)}
    for part, ids in IDS.items():
        table = feature_table(ids, unit[starts[part]], norms[starts[part]], {"pin": 1}, storage)
        folder.write_table(f"{part}.arrow", table)
    return Vectors(["a", "b"], lambda part: Block.of_features(folder.read_table(f"{part}.arrow"))), unit, norms


@pytest.mark.parametrize(("storage", "error"), [("float16", 5e-4), ("int8", 4e-3)])
def test_features_are_decoded_to_the_rows_that_were_stored(tmp_path, storage, error):
    vectors, unit, norms = features(Folder.at(tmp_path), storage)
    assert vectors.ids == ["r0", "r1", "r2", "r3", "r4"] and len(vectors) == 5
    np.testing.assert_allclose(vectors.to_numpy(), unit, atol=error)
    np.testing.assert_array_equal(vectors.norms, norms)
    assert [block.values.dtype for block in vectors] == [np.dtype(storage)] * 2
    assert repr(vectors) == f"<Vectors: 2 blocks, rows of 16 {storage}>"


def test_some_rows_come_in_the_order_asked_for(tmp_path):
    vectors, unit, _ = features(Folder.at(tmp_path), "int8")
    np.testing.assert_allclose(vectors.of(["r4", "r0", "r3", "r0"]), unit[[4, 0, 3, 0]], atol=4e-3)
    np.testing.assert_array_equal(vectors.block("b").decoded([1]), vectors.of(["r4"]))
    assert vectors.of([]).shape == (0, 16)
    with pytest.raises(InputError, match="row 'r9' has no vector here"):
        vectors.of(["r0", "r9"])


def test_a_block_is_a_view_of_the_files_pages(tmp_path):
    vectors, _, _ = features(Folder.at(tmp_path), "float16", width=50_000)
    before = pa.total_allocated_bytes()
    block = vectors.block("a")
    assert pa.total_allocated_bytes() - before < 0.1 * block.values.nbytes
    assert not block.values.flags.owndata and not block.values.flags.writeable
    with pytest.raises(InputError, match="there is no block 'c'; they are a, b"):
        vectors.block("c")


def test_what_was_not_normalised_has_no_norms(tmp_path):
    folder, rows = Folder.at(tmp_path), np.arange(6, dtype=np.float32).reshape(2, 3)
    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 3)
    folder.write_table("a.arrow", pa.table({"id": ["x", "y"], "scores": values}))
    vectors = Vectors(["a"], lambda part: Block.of_column(folder.read_table(f"{part}.arrow"), "scores"))
    np.testing.assert_array_equal(vectors.of(["y", "x"]), rows[::-1])
    block = vectors.block("a")
    assert np.shares_memory(block.decoded(), block.values)
    with pytest.raises(InputError, match="only gradients have norms"):
        _ = vectors.norms
