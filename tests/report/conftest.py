"""A study folder of a few rows, written by hand: what the stages would have left, without training anything."""

from collections.abc import Callable, Mapping, Sequence
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
    AccuracyResult,
    AttributionResult,
    Checkpoint,
    EvaluateResult,
    FeaturesResult,
    HeadroomResult,
    HeadroomRows,
    PrepareResult,
    RejectedRows,
    Result,
    SelectResult,
    TrainingResult,
    WarmupResult,
)
from instsel.study.runs import Run, runs_of
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
SCORED: dict[str, Any] = {
    "targets": {
        name: {**target, "test": "t.jsonl", "scoring": "exact_match" if name == "sums" else "choice"}
        for name, target in CONFIG["targets"].items()
    },
    "guards": {"safe": {"test": "s.jsonl", "scoring": "choice", "margin": 10}},
}
ITEMS = 40
CHECKPOINTS = {"epoch-1": Checkpoint(epoch=1, step=2, loss=1.0, learning_rate=0.1, tokens=500, seconds=1.0)}
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


def make_study(
    out: Path, *, name: str = "tiny", text: str = HOSTILE, until: str = "evaluate", scored: bool = False,
    budget: int | list[int] = 4,
) -> Path:  # fmt: skip
    """Write a study folder; `until` "select" leaves the trainings out, `scored` adds accuracies and a guard.

    At half the budget a run loses a quarter of a nat more, and has 4 items less right.
    """
    folder = open_folder(str(out), name)
    selection = {**CONFIG["selection"], "budget": budget}
    parts = {**CONFIG, **(SCORED if scored else {}), "selection": selection}
    study = parse_study({**parts, "name": name, "out": str(out)}, "test")
    folder.write_json("config.json", study.model_dump(mode="json"))
    keys = [(stage, StageKey(stage.name, key)) for stage in load_stages() for key in stage.keys(study)]
    folder.write_json(GRAPH, [{"name": key.name, "settings": stage.settings(study, key.key)} for stage, key in keys])
    prepare = _prepare(folder, text)
    embed = _stage(folder, "embed", RejectedRows(rejected={}), prepare)
    warmup = _stage(folder, "warmup", WarmupResult(run="runs/a", checkpoints=CHECKPOINTS, rows=1), prepare)
    features = _stage(folder, "features", FeaturesResult(checkpoints=CHECKPOINTS, provenance={}, rejected={}), warmup)
    attribution = _attribution(folder, features)
    parents = {"random": prepare, "bids": attribution, "smart": embed}
    runs = runs_of(study).values()
    chosen = {run.name: _select(folder, run, parents[run.method.name]) for run in runs}
    if until == "select":
        return out
    _evaluate(folder, "base", 3.0, prepare)
    if scored:
        _accuracy(folder, "base", 4, prepare)
    for run in runs:
        name, index, halves = run.name, list(PICKS).index(run.method.name), round(np.log2(4 / run.budget))
        result = TrainingResult(run="runs/a", checkpoints=CHECKPOINTS)
        trained = _stage(folder, f"finetune/{name}", result, chosen[name])
        _evaluate(folder, name, 2.0 - index * 0.5 + halves * 0.25, trained)
        if scored:
            _accuracy(folder, name, 8 + 10 * index - 4 * halves, trained)
    return out


def add_headroom(out: Path, gains: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Add the stage *headroom* to a study folder: target -> score -> gains of its validation rows."""
    folder = Folder.at(out)
    config = folder.read_json("config.json")
    config["evaluation"]["headroom"] = True
    folder.write_json("config.json", config)
    rows = HeadroomRows(trained=20, by_sources=True, scored=4)
    prepare = StageFolder(folder / "prepare", "prepare", StudyReader(folder).stages()["prepare"])
    stage = _stage(folder, "headroom", HeadroomResult(targets=dict.fromkeys(gains, rows)), prepare)
    lines = [
        {"target": target, "id": str(number), "score": score, "gain": gain}
        for target, by_score in gains.items()
        for score, values in by_score.items()
        for number, gain in enumerate(values)
    ]
    stage.folder.write_table("scores.parquet", pa.Table.from_pylist(lines))


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
        "parameters": 1000,
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
    for target in TARGETS:
        rows = pa.table({"id": [f"{target}-0", f"{target}-1"], "tokens": pa.array([30, 30], pa.int32())})
        (stage.folder / "targets" / target).write_table("validation.parquet", rows)
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


def _select(folder: Folder, run: Run, parent: StageFolder) -> StageFolder:
    name, count = run.method.name, int(run.budget)
    picks = PICKS[name][:count]
    result = {"rows": count, "tokens": 60 * count, "sources": {"left": count}, "tasks": {"left/-": count}}
    if name == "smart":
        result |= {"task_gains": {"left": 2.5, "<right>": 1.25}}
    stage = _stage(folder, f"select/{run.selection}", SelectResult.model_validate(result), parent)
    reasons = ["task left", "task left", "task <right>", "task <right>"] if name == "smart" else ["why"] * 4
    table = {
        "id": [_ids()[row] for row in picks],
        "rank": list(range(count)),
        "score": [4.0, 3.0, 2.0, 1.0][:count],
        "reason": reasons[:count],
        "tokens": pa.array([20 * row for row in picks], pa.int32()),
    }
    stage.folder.write_table("selected.parquet", pa.table(table))
    return stage


def _accuracy(folder: Folder, name: str, right: int, parent: StageFolder) -> None:
    """Write scores: so many of 40 items are right, in `safe` 2 fewer the more a run was trained."""
    scores, tables = {}, {}
    for target in (*TARGETS, "safe"):
        count = 36 - right // 2 if target == "safe" else right
        correct = np.arange(ITEMS) < count
        probability = None if target == "sums" else np.where(correct, 0.75, 0.25)
        scores[target] = {
            "items": ITEMS,
            "correct": float(correct.mean()),
            "probability": None if probability is None else float(probability.mean()),
            "unanswered": 10 if target == "sums" else 0,
        }
        tables[target] = pa.table(
            {
                "item": [f"item{number}" for number in range(ITEMS)],
                "document": list(range(ITEMS)),
                "answer": ["a"] * ITEMS,
                "right": ["b"] * ITEMS,
                "correct": correct.astype(np.float64),
                "probability": pa.array([None] * ITEMS if probability is None else probability, pa.float64()),
                "found": [True] * ITEMS,
            }
        )
    settings = {target: {"version": "1", "shots": 0} for target in tables}
    result = AccuracyResult.model_validate({"scores": scores, "settings": settings})
    stage = _stage(folder, f"accuracy/{name}", result, parent)
    for target, table in tables.items():
        stage.folder.write_table(f"{target}.parquet", table)


def _evaluate(folder: Folder, name: str, level: float, parent: StageFolder) -> None:
    losses = {target: level + number + np.arange(5) / 10 for number, target in enumerate(TARGETS)}
    means = {target: float(values.mean()) for target, values in losses.items()}
    stage = _stage(folder, f"evaluate/{name}", EvaluateResult(losses=means), parent)
    for target, values in losses.items():
        stage.folder.write_table(f"{target}.parquet", pa.table({"id": list("abcde"), "loss": values}))
