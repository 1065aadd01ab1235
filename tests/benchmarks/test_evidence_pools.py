"""Pools of the studies: as many rows of each source, and in *far* none of a target's own tasks."""

import gzip
import json
from pathlib import Path

import pytest

from benchmarks.evidence import pools


def write_source(data: Path, name: str, tasks: list[str | None]) -> None:
    (data / "pool").mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"id": f"{name}-{n}", "task": task}) + "\n" for n, task in enumerate(tasks))
    (data / "pool" / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_far_takes_as_many_rows_and_none_of_a_targets_own_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pools, "ROWS", {"p3": 3, "superni": 2})
    monkeypatch.setattr(pools, "OTHERS", 1)
    write_source(tmp_path, "p3", ["sciq_a", "other", "dream_b", None, "quartz_c", "more", "rest"])
    write_source(tmp_path, "superni", ["task363_x", "task1_y", "task1687_z", "task2_w"])
    write_source(tmp_path, "math", ["sciq", "x"])
    near, far = tmp_path / "near.jsonl.gz", tmp_path / "far.jsonl.gz"
    assert pools.write_pool(tmp_path, near, far=False) == pools.write_pool(tmp_path, far, far=True) == 6
    assert ids(near) == ["math-0", "p3-0", "p3-1", "p3-2", "superni-0", "superni-1"]
    assert ids(far) == ["math-0", "p3-1", "p3-3", "p3-5", "superni-1", "superni-3"]


def test_the_same_rows_are_the_same_bytes(tmp_path: Path):
    write_source(tmp_path, "p3", ["a", "b"])
    for path in (tmp_path / "one.jsonl.gz", tmp_path / "two.jsonl.gz"):
        pools.write_pool(tmp_path, path, far=False)
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()
