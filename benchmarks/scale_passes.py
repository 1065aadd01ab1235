"""What `benchmarks.scale` runs on a pool of one size; a module of its own, so that Ray's workers can import it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale_pool import write_pool, write_target
from benchmarks.scale_watch import Peaks, watch
from instsel.config.file import parse_study
from instsel.config.study import Resources, StudyConfig
from instsel.console import Terminal
from instsel.data.batching import Example
from instsel.gradients.features import feature_table, normalise
from instsel.io.store import Folder
from instsel.pipeline.extraction import ForwardStage
from instsel.pipeline.registry import build_graph
from instsel.runtime.session import peak_memory, plan_resources, ray_session
from instsel.study.estimates import ActorSpec
from instsel.study.folder import StageFolder
from instsel.study.results import PrepareResult
from instsel.study.stage import RunContext

FILES = 8
HEADER = [
    "rows", "pass", "shards", "seconds", "driver, start", "driver, peak", "heaviest worker", "Ray itself",
    "object store", "spilled",
]  # fmt: skip


@dataclass(frozen=True)
class Size:
    """What is run: rows of the pool and of a shard, entries of a feature, seconds that an actor waits at a shard."""

    model: str
    rows: int
    shard_rows: int
    dim: int
    wait: float


def measure(size: Size, folder: str) -> list[list[str]]:
    """The lines of the table for one size.

    Args:
        size: what is run.
        folder: empty, for the pool and the study.
    """
    root, terminal = Path(folder), Terminal()
    write_pool(root / "pool", size.rows, FILES)
    write_target(root / "target.jsonl")
    study = _study(size, folder)
    graph = build_graph(study, Folder.at(study.out))
    lines = []
    # A Ray for each, so that no worker of the first pass is counted for the second.
    for name, stage in (("prepare", graph.stage("prepare")), ("write", WritePass(size))):
        with ray_session(Resources()):
            context = RunContext(study, graph, plan_resources(study.resources), terminal)
            lines.append(_watched(size, name, graph["prepare"], partial(stage.run, context, [""])))
    return lines


class WritePass(ForwardStage):
    """Puts the pool through actors as *features* does, and into its folder."""

    name = "features"
    position = 70
    takes_validation = False

    def __init__(self, size: Size) -> None:
        self.size = size

    def actors(self, config: StudyConfig, out: Folder) -> ActorSpec:
        budget = config.features.token_budget
        return ActorSpec(Writer, (out, self.size.dim, self.size.wait, budget), "features.token_budget", budget)


class Writer:
    """In place of a model: draws unit vectors and writes them as a shard of features."""

    def __init__(self, threads: int, out: Folder, dim: int, wait: float, token_budget: int) -> None:
        self.out, self.dim, self.wait, self.token_budget = out, dim, wait, token_budget

    def __call__(self, item: dict[str, str], ids: list[str], examples: list[Example]) -> dict[str, Any]:
        time.sleep(self.wait)
        drawn = np.random.default_rng(len(ids)).standard_normal((len(ids), self.dim), dtype=np.float32)
        unit, norms, _, _ = normalise(drawn)
        (self.out / item["kind"]).write_table(f"{item['name']}.arrow", feature_table(ids, unit, norms, {}))
        tokens = sum(len(row["input_ids"]) for row in examples)
        return {"tokens": tokens, "peak_memory": peak_memory(), "token_budget": self.token_budget}


def _watched(size: Size, name: str, pool: StageFolder, run: Callable[[], Any]) -> list[str]:
    start = time.monotonic()
    with watch() as peaks:
        run()
    seconds = time.monotonic() - start
    shards = len(pool.result(PrepareResult).pool.shards)
    return [f"{size.rows:,}", name, f"{shards:,}", f"{seconds:.0f}", *_cells(peaks)]


def _cells(peaks: Peaks) -> list[str]:
    start, driver, worker, ray, store, spilled = (
        f"{number / 1e6:.0f}"
        for number in (peaks.start, peaks.driver, peaks.worker, peaks.ray, peaks.store, peaks.spilled)
    )
    return [start, driver, f"{worker} ({peaks.name})", ray, store, spilled]


def _study(size: Size, folder: str) -> StudyConfig:
    keys = {
        "name": "scale",
        "out": f"{folder}/study",
        "root": folder,
        "model": {"name": size.model},
        "pool": [{"path": "pool/*.jsonl"}],
        "targets": {"sums": {"validation": "target.jsonl"}},
        "data": {"max_length": 128, "shard_rows": size.shard_rows},
        "selection": {"budget": 100, "methods": ["bids"]},
    }
    return parse_study(keys, "benchmark")
