import numpy as np
import pytest

from instsel.gradients.features import GradientShards, feature_table
from instsel.io.store import Folder

PROVENANCE = {"epoch-1": {"pool": {"of": "first"}}, "epoch-2": {"pool": {"of": "second"}}}
IDS = ["a", "b", "c", "d"]


@pytest.fixture
def stored(tmp_path):
    """Two checkpoints of four rows, the last of which has no feature at the second."""
    random = np.random.default_rng(0)
    folder, rows = Folder.at(tmp_path), {}
    for name, provenance in PROVENANCE.items():
        kept = 4 if name == "epoch-1" else 3
        unit = random.normal(size=(kept, 16)).astype(np.float32)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        norms = random.uniform(1, 5, kept).astype(np.float32)
        table = feature_table(IDS[:kept], unit, norms, provenance["pool"], "float16")
        (folder / name / "pool").write_table("s.arrow", table)
        rows[name] = unit * norms[:, None]
    return GradientShards(folder, PROVENANCE), rows


def test_grouped_sums_have_the_lengths_back_and_only_rows_of_all_checkpoints(stored):
    shards, rows = stored
    groups, sums, counts = shards.grouped_sums("s", {"a": 7, "c": 7, "b": 0, "d": 3})
    assert groups.tolist() == [0, 7]
    assert counts.tolist() == [1, 2]
    for place, values in enumerate(rows.values()):
        np.testing.assert_allclose(sums[place, 0], values[1], atol=5e-3)
        np.testing.assert_allclose(sums[place, 1], values[0] + values[2], atol=1e-2)


def test_rows_without_a_group_are_left_out(stored):
    shards, _ = stored
    groups, sums, counts = shards.grouped_sums("s", {})
    assert sums.shape == (2, 0, 16)
    assert (groups.size, counts.size) == (0, 0)
