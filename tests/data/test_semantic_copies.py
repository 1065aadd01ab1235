"""The nearest other row of a sample, against the whole matrix of cosines."""

import numpy as np
import pytest

from instsel.data import semantic_copies
from instsel.data.semantic_copies import nearest_rows


def make_shards(rows: int, shard: int) -> tuple[list[str], list[str], np.ndarray]:
    random = np.random.default_rng(rows)
    vectors = random.normal(size=(rows, 8)).astype(np.float32)
    ids = [f"{number:04d}" for number in random.permutation(rows)]
    return [f"{first}" for first in range(0, rows, shard)], ids, vectors


@pytest.mark.parametrize(("rows", "shard", "sample"), [(50, 7, 10), (50, 50, 60), (1, 3, 5), (40, 1, 40)])
def test_the_nearest_row_is_that_of_all_pairs(rows: int, shard: int, sample: int) -> None:
    shards, ids, vectors = make_shards(rows, shard)
    read = lambda name: (ids[int(name) : int(name) + shard], vectors[int(name) : int(name) + shard])  # noqa: E731
    nearest = nearest_rows(shards, read, rows, sample)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    chosen = [ids.index(name) for name in sorted(ids)[:sample]]
    assert nearest.ids == sorted(ids)[:sample]
    assert nearest.compared == rows
    if rows > 1:
        assert nearest.others == [ids[row] for row in cosines[chosen].argmax(axis=1)]
        np.testing.assert_allclose(nearest.cosines, cosines[chosen].max(axis=1), rtol=1e-5)
    else:
        assert nearest.others == [""]


def test_of_a_large_pool_every_second_shard_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic_copies, "MOST_COMPARED", 30)
    shards, ids, vectors = make_shards(60, 10)
    read = lambda name: (ids[int(name) : int(name) + 10], vectors[int(name) : int(name) + 10])  # noqa: E731
    assert nearest_rows(shards, read, 60).compared == 30


def test_rows_without_a_direction_are_near_none() -> None:
    vectors = np.array([[0, 0], [1, 0], [1, 0.1]], dtype=np.float32)
    nearest = nearest_rows(["only"], lambda _: (["a", "b", "c"], vectors), 3)
    assert nearest.cosines[0] == 0
    assert nearest.others[1:] == ["c", "b"]
    assert nearest_rows([], lambda _: ([], vectors[:0]), 0).ids == []
