"""A study folder of a few rows, written by hand: what the stages would have left, without training anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from instsel.config.file import parse_study
from instsel.io.store import Folder
from instsel.pipeline.registry import load_stages
from instsel.study.folder import GRAPH, Cost, StageFolder, open_folder
from instsel.study.reader import StudyReader
from instsel.study.results import (
    AttributionResult,
    EvaluateResult,
    FeaturesResult,
    PrepareResult,
    RejectedRows,
    Result,
    SelectResult,
    TrainingResult,
    WarmupResult,
)
from instsel.study.stage import StageKey

HOSTILE = (
    "<script>alert('x')</script></script><img src=x onerror=alert(1)> \u202eevil\u202c \x1b[31m \U0001f600 "
    + "w" * 9000
)
TARGETS = ("sums", "towns")
ROWS = 12
CONFIG: dict[str, Any] = {
    "name": "tiny",
    "model": {"name": "some/model"},
    "pool": [{"path": "pool.jsonl"}],
    "targets": {name: {"validation": f"{name}.jsonl", "heldout": f"{name}-h.jsonl"} for name in TARGETS},
    "selection": {"budget": 4, "methods": ["random", "bids", "smart"]},
    "evaluation": {"bootstrap_samples": 200},
}
INFLUENCE = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32)
PICKS = {"random": [0, 1, 2, 3], "bids": [3, 4, 5, 6], "smart": [8, 9, 10, 11]}


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
    """A finished study of 12 rows in two shards, two targets and three selections."""
    return make_study(tmp_path / "tiny")


@pytest.fixture
def make_study_folder() -> Callable[..., Path]:
    """`make_study`."""
    return make_study


def make_study(out: Path, *, name: str = "tiny", text: str = HOSTILE, until: str = "evaluate") -> Path:
    """Write a study folder; `until` "select" leaves the trainings out."""
    folder = open_folder(str(out), name)
    study = parse_study({**CONFIG, "name": name, "out": str(out)}, "test")
    folder.write_json("config.json", study.model_dump(mode="json"))
    keys = [(stage, StageKey(stage.name, key)) for stage in load_stages() for key in stage.keys(study)]
    folder.write_json(GRAPH, [{"name": key.name, "settings": stage.settings(study, key.key)} for stage, key in keys])
    prepare = _prepare(folder, text)
    embed = _stage(folder, "embed", RejectedRows(rejected={}), prepare)
    warmup = _stage(folder, "warmup", WarmupResult(run="runs/a", checkpoints={}, rows=1), prepare)
    features = _stage(folder, "features", FeaturesResult(checkpoints={}, provenance={}, rejected={}), warmup)
    attribution = _attribution(folder, features)
    chosen = {
        name: _select(folder, name, {"random": prepare, "bids": attribution, "smart": embed}[name]) for name in PICKS
    }
    if until == "select":
        return out
    _evaluate(folder, "base", 3.0, prepare)
    for index, (name, selection) in enumerate(chosen.items()):
        trained = _stage(folder, f"finetune/{name}", TrainingResult(run="runs/a", checkpoints={}), selection)
        _evaluate(folder, name, 2.0 - index * 0.5, trained)
    return out


def _stage(folder: Folder, name: str, result: Result, *parents: StageFolder) -> StageFolder:
    stage = StageFolder(folder / name, name, StudyReader(folder).stages()[name], parents)
    stage.start()
    stage.commit(result, Cost(tokens=100, peak_memory=2**30, seconds=2.0))
    return stage


def _ids() -> list[str]:
    return [f"row{number:02d}" for number in range(ROWS)]


def _prepare(folder: Folder, text: str) -> StageFolder:
    shards = ["00000-000000", "00000-000001"]
    result = {
        "pool": {
            "rows": ROWS,
            "tokens": 60 * ROWS,
            "shards": shards,
            "sources": {name: {"rows": 6, "tokens": 360} for name in ("left", "right<b>")},
            "rejected": {"no answer": 2},
        },
        "targets": {
            name: {"validation": {"rows": 2, "rejected": {}}, "heldout": {"rows": 5, "rejected": {}}}
            for name in TARGETS
        },
        "tokenizer": {},
    }
    stage = _stage(folder, "prepare", PrepareResult.model_validate(result))
    table = pa.table(
        {
            "id": _ids(),
            "source": ["left"] * 6 + ["right<b>"] * 6,
            "task": [None, "a"] * 6,
            "tokens": pa.array([20 * number for number in range(ROWS)], pa.int32()),
            "answer_tokens": pa.array([5] * ROWS, pa.int32()),
            "shard": [shards[0]] * 6 + [shards[1]] * 6,
        }
    )
    stage.folder.write_table("index.parquet", table)
    messages = [
        [{"role": "user", "content": f"needle{row} {text}"}, {"role": "assistant", "content": "yes"}] for row in _ids()
    ]
    for number, shard in enumerate(shards):
        part = pa.table({"id": _ids(), "messages": messages}).slice(6 * number, 6)
        (stage.folder / "pool").write_table(f"{shard}.parquet", part)
    rejected = {"file": ["a"] * 2, "line": [1, 2], "reason": ["no answer"] * 2, "text": [text, "second"]}
    (stage.folder / "rejected").write_table(f"{shards[0]}.parquet", pa.table(rejected))
    return stage


def _attribution(folder: Folder, features: StageFolder) -> StageFolder:
    shards = ["00000-000000", "00000-000001"]
    result = AttributionResult(rows=ROWS, columns=4, weights=[1.0], shards=shards)
    stage = _stage(folder, "attribution/cosine", result, features)
    columns = {"id": list("wxyz"), "target": ["sums", "towns", "sums", "towns"], "subtask": ["s", "t", "s", "t"]}
    stage.folder.write_table("columns.parquet", pa.table(columns))
    # The second shard is not in the index's order.
    for number, order in enumerate(([0, 1, 2, 3, 4, 5], [11, 10, 9, 8, 7, 6])):
        scores = pa.FixedSizeListArray.from_arrays(pa.array(INFLUENCE[order].ravel()), 4)
        block = pa.table({"id": [_ids()[row] for row in order], "scores": scores})
        (stage.folder / "blocks").write_table(f"00000-00000{number}.arrow", block)
    return stage


def _select(folder: Folder, name: str, parent: StageFolder) -> StageFolder:
    picks = PICKS[name]
    result = {"rows": 4, "tokens": 240, "sources": {"left": 4}, "tasks": {"left/-": 4}}
    if name == "smart":
        result |= {"task_gains": {"left": 2.5, "<right>": 1.25}}
    stage = _stage(folder, f"select/{name}", SelectResult.model_validate(result), parent)
    reasons = ["task left", "task left", "task <right>", "task <right>"] if name == "smart" else ["why"] * 4
    table = {
        "id": [_ids()[row] for row in picks],
        "rank": list(range(4)),
        "score": [4.0, 3.0, 2.0, 1.0],
        "reason": reasons,
        "tokens": pa.array([20 * row for row in picks], pa.int32()),
    }
    stage.folder.write_table("selected.parquet", pa.table(table))
    return stage


def _evaluate(folder: Folder, name: str, level: float, parent: StageFolder) -> None:
    losses = {target: level + number + np.arange(5) / 10 for number, target in enumerate(TARGETS)}
    means = {target: float(values.mean()) for target, values in losses.items()}
    stage = _stage(folder, f"evaluate/{name}", EvaluateResult(losses=means), parent)
    for target, values in losses.items():
        stage.folder.write_table(f"{target}.parquet", pa.table({"id": list("abcde"), "loss": values}))
