"""A synthetic finished study: what its stages would have left, of any number of rows, without a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from instsel.config.file import parse_study
from instsel.io.store import Folder
from instsel.study.folder import StageFolder, open_folder

SHARD_ROWS = 1000
SHARE = 0.05
SOURCES = [f"source-{number:02d}" for number in range(18)]
TARGETS = ["sums", "towns"]
METHODS = ["random", "bids", "less", "longest"]
HELD_OUT = 60


def write_study(out: Path, rows: int, columns: int) -> int:
    """Write a study of `rows` rows with influence on `columns` validation rows, and return its number of shards."""
    folder = open_folder(str(out), "synthetic")
    targets = {name: {"validation": f"{name}.jsonl", "heldout": f"{name}-h.jsonl"} for name in TARGETS}
    selection = {"budget": SHARE, "methods": METHODS}
    raw = {"name": "synthetic", "out": str(out), "model": {"name": "none"}, "pool": [{"path": "none.jsonl"}]}
    study = parse_study({**raw, "targets": targets, "selection": selection}, "synthetic study")
    folder.write_json("config.json", study.model_dump())
    random = np.random.default_rng(0)
    shards = [f"00000-{number:06d}" for number in range(-(-rows // SHARD_ROWS))]
    prepare, ids = _pool(folder, rows, shards, random)
    attribution = _influence(folder, ids, shards, columns, random, _stage(folder, "features", {}, prepare))
    _evaluate(folder, "base", prepare, random)
    for name in METHODS:
        chosen = _select(folder, name, ids, random, prepare if name in ("random", "longest") else attribution)
        _evaluate(folder, name, _stage(folder, f"finetune/{name}", {}, chosen), random)
    return len(shards)


def _stage(folder: Folder, name: str, result: Mapping[str, Any], *parents: StageFolder) -> StageFolder:
    stage = StageFolder(folder / name, name, {}, parents)
    stage.start()
    stage.commit({"rejected": {}, **result}, seconds=1.0)
    return stage


def _pool(folder: Folder, rows: int, shards: list[str], random: np.random.Generator) -> tuple[StageFolder, pa.Array]:
    ids = pa.array([f"{number:016x}" for number in range(rows)], pa.string())
    index = {
        "id": ids,
        "source": np.array(SOURCES)[random.integers(len(SOURCES), size=rows)],
        "task": np.array(["add", "take", "share"])[random.integers(3, size=rows)],
        "tokens": random.integers(20, 2000, size=rows, dtype=np.int32),
        "answer_tokens": np.full(rows, 10, dtype=np.int32),
        "shard": np.repeat(shards, SHARD_ROWS)[:rows],
    }
    pool = {"rows": rows, "tokens": int(index["tokens"].sum()), "shards": shards, "rejected": {}}
    counts = {name: {"validation": {"rows": 10}, "heldout": {"rows": HELD_OUT}} for name in TARGETS}
    stage = _stage(folder, "prepare", {"pool": pool, "targets": counts})
    stage.folder.write_table("index.parquet", pa.table(index))
    turns = [{"role": "user", "content": "How many apples? " * 20}, {"role": "assistant", "content": "Twelve."}]
    for number, shard in enumerate(shards):
        part = ids.slice(number * SHARD_ROWS, SHARD_ROWS)
        (stage.folder / "pool").write_table(f"{shard}.parquet", pa.table({"id": part, "messages": [turns] * len(part)}))
    return stage, ids


def _influence(
    folder: Folder, ids: pa.Array, shards: list[str], columns: int, random: np.random.Generator, features: StageFolder
) -> StageFolder:
    stage = _stage(folder, "attribution/cosine", {"shards": shards}, features)
    names = [f"row-{number}" for number in range(columns)]
    target = [TARGETS[number % len(TARGETS)] for number in range(columns)]
    stage.folder.write_table("columns.parquet", pa.table({"id": names, "target": target, "subtask": target}))
    for number, shard in enumerate(shards):
        part = ids.slice(number * SHARD_ROWS, SHARD_ROWS)
        scores = random.normal(size=len(part) * columns).astype(np.float32)
        block = {"id": part, "scores": pa.FixedSizeListArray.from_arrays(pa.array(scores), columns)}
        (stage.folder / "blocks").write_table(f"{shard}.arrow", pa.table(block))
    return stage


def _select(folder: Folder, name: str, ids: pa.Array, random: np.random.Generator, parent: StageFolder) -> StageFolder:
    picks = random.permutation(len(ids))[: max(1, int(SHARE * len(ids)))]
    stage = _stage(folder, f"select/{name}", {"rows": len(picks), "tokens": 10 * len(picks)}, parent)
    table = {
        "id": ids.take(pa.array(picks)),
        "rank": np.arange(len(picks)),
        "score": random.normal(size=len(picks)),
        "reason": pa.array(["synthetic"] * len(picks)),
    }
    stage.folder.write_table("selected.parquet", pa.table(table))
    return stage


def _evaluate(folder: Folder, name: str, parent: StageFolder, random: np.random.Generator) -> None:
    losses = {target: random.normal(2.0, 0.5, size=HELD_OUT) for target in TARGETS}
    stage = _stage(
        folder, f"evaluate/{name}", {"losses": {name: float(values.mean()) for name, values in losses.items()}}, parent
    )
    ids = [f"heldout-{number}" for number in range(HELD_OUT)]
    for target, values in losses.items():
        stage.folder.write_table(f"{target}.parquet", pa.table({"id": ids, "loss": values}))
