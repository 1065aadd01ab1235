"""Fisher matrices, summed up by groups of shards and strips of the matrix."""

import numpy as np
import pytest

from instsel.console import Terminal
from instsel.gradients.features import feature_table
from instsel.io.store import Folder
from instsel.pipeline import fisher
from instsel.pipeline.fisher import count_fisher_tasks, fisher_disk, fisher_matrices, fisher_memory

PROVENANCE = {"epoch-1": {"pool": {"of": "first"}}, "epoch-2": {"pool": {"of": "second"}}}
SHARDS, ROWS, DIM = 5, 7, 8


@pytest.fixture
def written(tmp_path) -> tuple[Folder, list[str], list[np.ndarray]]:
    """A folder with the features of two checkpoints, its shards, and the mean of u u^T at each."""
    random, folder = np.random.default_rng(0), Folder.at(tmp_path)
    shards, moments = [f"00-{number:03d}" for number in range(SHARDS)], []
    for checkpoint, kinds in PROVENANCE.items():
        rows = random.standard_normal((SHARDS, ROWS, DIM)).astype(np.float16).astype(np.float64)
        rows /= np.linalg.norm(rows, axis=2, keepdims=True)
        for shard, units in zip(shards, rows, strict=True):
            ids = [f"{shard}-{row}" for row in range(ROWS)]
            table = feature_table(ids, units.astype(np.float32), np.ones(ROWS, np.float32), kinds["pool"])
            (folder / "features" / checkpoint / "pool").write_table(f"{shard}.arrow", table)
        flat = rows.reshape(-1, DIM)
        moments.append(flat.T @ flat / len(flat))
    return folder, shards, moments


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("width", [3, 4, 1024])
def test_fault_20_a_fisher_matrix_is_summed_by_strips_as_well(written, width, monkeypatch):
    folder, shards, expected = written
    monkeypatch.setattr(fisher, "STRIP", width)
    got = list(fisher_matrices(folder / "features", PROVENANCE, DIM, shards, folder / "moments", Terminal()))
    for matrix, moment in zip(got, expected, strict=True):
        np.testing.assert_allclose(matrix, moment, atol=1e-3)
        np.testing.assert_array_equal(matrix, matrix.T)
    assert not (folder / "moments").names()


@pytest.mark.usefixtures("ray_session")
def test_strips_that_were_summed_before_a_kill_are_kept(written, monkeypatch):
    folder, shards, _ = written
    monkeypatch.setattr(fisher, "STRIP", 3)
    sums = fisher_matrices(folder / "features", PROVENANCE, DIM, shards, folder / "moments", Terminal())
    whole = next(sums)
    run, started = fisher._sum_pieces, []

    def killed(missing, *others):
        run(missing[:4], *others)
        raise InterruptedError

    monkeypatch.setattr(fisher, "_sum_pieces", killed)
    with pytest.raises(InterruptedError):
        next(fisher_matrices(folder / "features", PROVENANCE, DIM, shards, folder / "moments", Terminal()))
    monkeypatch.setattr(
        fisher, "_sum_pieces", lambda missing, *others: started.append(len(missing)) or run(missing, *others)
    )
    again = next(fisher_matrices(folder / "features", PROVENANCE, DIM, shards, folder / "moments", Terminal()))
    assert started == [3 * SHARDS - 4]
    assert again.tobytes() == whole.tobytes()


def test_fault_20_more_than_32_tasks_sum_a_large_matrix():
    assert count_fisher_tasks(8192, 10_000) == 256
    assert count_fisher_tasks(64, 10_000) == 32
    # Strips of the upper half of 32 matrices.
    assert fisher_disk(8192, 10_000) == 32 * 4 * 1024**2 * (8 * 9 // 2)
    # A strip of float64 for the sum and for a shard, and one of float32; four matrices of float64.
    assert fisher_memory(8192) == ((2 * 8 + 4) * 1024 * 8192, 4 * 8 * 8192**2)
