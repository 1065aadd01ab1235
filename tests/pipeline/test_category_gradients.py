"""Directions by category, added up shard by shard in groups."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from instsel.console import Terminal
from instsel.gradients.features import feature_table
from instsel.io.store import Folder
from instsel.mixture.categories import FOLDS
from instsel.pipeline import category_gradients
from instsel.pipeline.category_gradients import (
    FAN_IN,
    Summing,
    group_means,
    grouped,
    is_summed,
    sum_pool,
    write_tags,
)

PROVENANCE = {"epoch-1": {"pool": {"of": "first"}}, "epoch-2": {"pool": {"of": "second"}}}
NAMES = ["a", "b", "c"]
SHARDS, ROWS, DIM = 19, 7, 5


class Pool:
    """A pool of shards with features of two checkpoints, categories and an index, and what its sums have to be."""

    def __init__(self, folder: Folder) -> None:
        random = np.random.default_rng(0)
        self.folder = folder
        self.shards = [f"00-{number:03d}" for number in range(SHARDS)]
        self.sums = np.zeros((FOLDS, len(NAMES), 2, DIM))
        self.rows = np.zeros((FOLDS, len(NAMES)))
        lines = []
        for shard in self.shards:
            ids = [f"{shard}-{row}" for row in range(ROWS)]
            tags = [
                (random.choice([*NAMES, "none"]), bool(random.random() < 0.2), int(random.integers(FOLDS))) for _ in ids
            ]
            lines += [
                {"id": row, "category": name, "held": held, "fold": fold, "shard": shard}
                for row, (name, held, fold) in zip(ids, tags, strict=True)
            ]
            for position, (checkpoint, kinds) in enumerate(PROVENANCE.items()):
                # The values of float16, so that sums can be compared.
                unit = np.eye(DIM, dtype=np.float32)[random.integers(DIM, size=ROWS)]
                norms = random.uniform(1, 5, ROWS).astype(np.float32)
                table = feature_table(ids, unit, norms, kinds["pool"])
                (folder / "features" / checkpoint / "pool").write_table(f"{shard}.arrow", table)
                for (name, held, fold), row in zip(tags, unit * norms[:, None], strict=True):
                    if not held and name in NAMES:
                        self.sums[fold, NAMES.index(name), position] += row
                        self.rows[fold, NAMES.index(name)] += position == 0
        table = pa.Table.from_pylist(lines)
        (folder / "categorize").write_table("categories.parquet", table.drop(["shard"]))
        (folder / "prepare").write_table("index.parquet", table.select(["id", "shard"]))
        self.table = table

    def work(self) -> Summing:
        return Summing(
            self.folder / "features", PROVENANCE, self.folder / "tags", len(NAMES), self.folder / "interaction/sums"
        )

    def write_tags(self, groups: list[list[str]]) -> None:
        write_tags(self.folder / "categorize", self.folder / "prepare", self.folder / "tags", NAMES, groups)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(Folder.at(tmp_path))


def test_fault_16_a_task_reads_the_tags_of_its_own_shards_alone(pool):
    groups = grouped(pool.shards, 4)
    pool.write_tags(groups)
    assert [row for group in groups for row in group] == pool.shards
    for number, group in enumerate(groups):
        tags = (pool.folder / "tags").read_table(f"{number:04d}.parquet").to_pylist()
        assert tags == [
            {"id": line["id"], "number": line["fold"] * len(NAMES) + NAMES.index(line["category"])}
            for line in pool.table.to_pylist()
            if line["shard"] in group and not line["held"] and line["category"] in NAMES
        ]
    held = (pool.folder / "tags").read_table("held.parquet").to_pylist()
    assert held == [{"id": line["id"], "fold": line["fold"]} for line in pool.table.to_pylist() if line["held"]]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("groups", [1, 5, 100])
def test_fault_16_sums_are_added_up_by_groups_and_the_driver_reads_one(pool, groups, monkeypatch):
    read: list[str] = []
    load = category_gradients.load
    monkeypatch.setattr(category_gradients, "load", lambda data: read.append("sums") or load(data))
    parts = grouped(pool.shards, groups)
    pool.write_tags(parts)
    sums, rows = sum_pool(pool.work(), parts, Terminal())
    assert rows.tolist() == pool.rows.tolist()
    np.testing.assert_allclose(sums, pool.sums, rtol=1e-5)
    assert read == ["sums"]
    assert not pool.work().out.exists()


@pytest.mark.usefixtures("ray_session")
def test_fault_16_what_was_summed_up_before_a_kill_is_kept(pool, monkeypatch):
    monkeypatch.setattr(category_gradients, "FAN_IN", 2)
    groups = grouped(pool.shards, 5)
    pool.write_tags(groups)
    whole = sum_pool(pool.work(), groups, Terminal())
    run = category_gradients._run_tasks

    class Killed(Exception):
        pass

    def killed(function, level, *others):
        run(function, level, *others)
        if level == 1:
            raise Killed

    monkeypatch.setattr(category_gradients, "_run_tasks", killed)
    with pytest.raises(Killed):
        sum_pool(pool.work(), groups, Terminal())
    monkeypatch.setattr(category_gradients, "_run_tasks", run)
    # The features are not read again: they are gone.
    (pool.folder / "features").remove()
    again = sum_pool(pool.work(), groups, Terminal())
    assert [part.tobytes() for part in again] == [part.tobytes() for part in whole]


def test_a_sum_is_done_if_one_that_it_is_part_of_is():
    items = FAN_IN * FAN_IN + 1
    assert not is_summed([], 0, 5, items)
    assert is_summed(["0-0005.safetensors"], 0, 5, items)
    assert is_summed(["1-0000.safetensors"], 0, 5, items)
    assert not is_summed(["1-0000.safetensors"], 0, FAN_IN, items)
    assert is_summed(["3-0000.safetensors"], 0, items - 1, items)


@pytest.mark.parametrize(("count", "most"), [(0, 4), (1, 4), (4, 4), (9, 4), (1000, 64)])
def test_groups_are_of_nearly_equal_size(count, most):
    items = [str(number) for number in range(count)]
    groups = grouped(items, most)
    assert [item for group in groups for item in group] == items
    assert len(groups) == min(count, most)
    sizes = {len(group) for group in groups} or {0}
    assert max(sizes) - min(sizes) <= 1


def test_folds_put_together_have_the_mean_of_their_rows():
    random = np.random.default_rng(0)
    rows = random.integers(1, 5, size=(8, 3)).astype(float)
    sums = random.normal(size=(8, 3, 2, 4))
    found = group_means(sums, rows, 3)
    assert found.shape == (3, 3, 2, 4)
    for group in range(3):
        folds = list(range(group, 8, 3))
        for category in range(3):
            expected = sums[folds, category].sum(axis=0) / rows[folds, category].sum()
            assert found[group, category] == pytest.approx(expected)


def test_bug_empty_folds_shrank_the_mean_of_a_small_category():
    sums, rows = np.zeros((8, 2, 1, 1)), np.ones((8, 2))
    sums[:, 0] = 1.0
    # The second category fills two folds only.
    sums[:2, 1], rows[2:, 1] = 1.0, 0
    assert group_means(sums, rows, 2).ravel() == pytest.approx(1.0)
