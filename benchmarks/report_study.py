"""A synthetic finished study: what its stages would have left, of any number of rows, without a model."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from instsel.config.file import parse_study
from instsel.io.store import Folder
from instsel.pipeline.registry import load_stages
from instsel.study.folder import GRAPH, Cost, StageFolder, open_folder
from instsel.study.reader import StudyReader
from instsel.study.results import (
    AttributionResult,
    EvaluateResult,
    FeaturesResult,
    PoolResult,
    PrepareResult,
    Result,
    RowCount,
    SelectResult,
    SplitCount,
    TrainingResult,
)
from instsel.study.stage import StageKey

SHARD_ROWS = 1000
SHARE = 0.05
SOURCES = [f"source-{number:02d}" for number in range(18)]
TARGETS = ["sums", "towns"]
METHODS = ["random", "bids", "less", "longest"]
VALIDATION, HELD_OUT = 10, 60


def write_study(out: Path, rows: int, columns: int) -> int:
    """Write a study of `rows` rows with influence on `columns` validation rows, and return its number of shards."""
    folder = open_folder(str(out), "synthetic")
    targets = {name: {"validation": f"{name}.jsonl", "heldout": f"{name}-h.jsonl"} for name in TARGETS}
    selection = {"budget": SHARE, "methods": METHODS}
    raw = {"name": "synthetic", "out": str(out), "model": {"name": "none"}, "pool": [{"path": "none.jsonl"}]}
    study = parse_study({**raw, "targets": targets, "selection": selection}, "synthetic study")
    folder.write_json("config.json", study.model_dump(mode="json"))
    keys = [(stage, StageKey(stage.name, key)) for stage in load_stages() for key in stage.keys(study)]
    settings = [{"name": key.name, "settings": stage.settings(study, key.key)} for stage, key in keys]
    folder.write_json(GRAPH, settings)
    random = np.random.default_rng(0)
    shards = [f"00000-{number:06d}" for number in range(-(-rows // SHARD_ROWS))]
    prepare, ids = _pool(folder, rows, shards, random)
    features = _stage(folder, "features", FeaturesResult(checkpoints={}, provenance={}, rejected={}), prepare)
    attribution = _influence(folder, ids, shards, columns, random, features)
    _evaluate(folder, "base", prepare, random)
    for name in METHODS:
        chosen = _select(folder, name, ids, random, prepare if name in ("random", "longest") else attribution)
        trained = _stage(folder, f"finetune/{name}", TrainingResult(run="runs", checkpoints={}), chosen)
        _evaluate(folder, name, trained, random)
    return len(shards)


def _stage(folder: Folder, name: str, result: Result, *parents: StageFolder) -> StageFolder:
    stage = StageFolder(folder / name, name, StudyReader(folder).stages()[name], parents)
    stage.start()
    stage.commit(result, Cost(seconds=1.0))
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
    sources = {
        name: RowCount(rows=int(has.sum()), tokens=int(index["tokens"][has].sum()))
        for name, has in ((name, index["source"] == name) for name in SOURCES)
        if has.any()
    }
    tokens = int(index["tokens"].sum())
    pool = PoolResult(rows=rows, tokens=tokens, shards=shards, sources=sources, rejected={})
    splits = {"validation": SplitCount(rows=VALIDATION, rejected={}), "heldout": SplitCount(rows=HELD_OUT, rejected={})}
    targets = dict.fromkeys(TARGETS, splits)
    stage = _stage(folder, "prepare", PrepareResult(pool=pool, targets=targets, tokenizer={}))
    stage.folder.write_table("index.parquet", pa.table(index))
    shown = {
        "id": [f"shown-{number}" for number in range(VALIDATION)],
        "tokens": pa.array([100] * VALIDATION, pa.int32()),
    }
    for target in TARGETS:
        (stage.folder / "targets" / target).write_table("validation.parquet", pa.table(shown))
    turns = [{"role": "user", "content": "How many apples? " * 20}, {"role": "assistant", "content": "Twelve."}]
    for number, shard in enumerate(shards):
        part = ids.slice(number * SHARD_ROWS, SHARD_ROWS)
        (stage.folder / "pool").write_table(f"{shard}.parquet", pa.table({"id": part, "messages": [turns] * len(part)}))
    return stage, ids


def _influence(
    folder: Folder, ids: pa.Array, shards: list[str], columns: int, random: np.random.Generator, features: StageFolder
) -> StageFolder:
    result = AttributionResult(rows=len(ids), columns=columns, weights=[1.0], shards=shards)
    stage = _stage(folder, "attribution/cosine", result, features)
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
    result = SelectResult(rows=len(picks), tokens=10 * len(picks), sources={}, tasks={})
    stage = _stage(folder, f"select/{name}", result, parent)
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
    means = {target: float(values.mean()) for target, values in losses.items()}
    stage = _stage(folder, f"evaluate/{name}", EvaluateResult(losses=means), parent)
    ids = [f"heldout-{number}" for number in range(HELD_OUT)]
    for target, values in losses.items():
        stage.folder.write_table(f"{target}.parquet", pa.table({"id": ids, "loss": values}))
