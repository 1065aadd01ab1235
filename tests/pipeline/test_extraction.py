"""What the stages of one pass over the rows share: which rows are rejected, and when a stage has nothing left."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from instsel.console import Terminal
from instsel.errors import StudyError
from instsel.io.store import Folder
from instsel.pipeline.extraction import NOT_FINITE, ZERO, ActorSpec, ForwardStage, write_vectors
from instsel.study.folder import StageFolder
from instsel.study.results import PoolResult, PrepareResult
from instsel.study.stage import RunContext, StageKey


@pytest.fixture
def prepare(tmp_path: Path) -> StageFolder:
    stage = StageFolder(Folder.at(tmp_path) / "prepare", "prepare", {})
    stage.start()
    for name in ("pool/a", "pool/b", "targets/t/validation"):
        folder, _, last = name.rpartition("/")
        ids = [f"{last}{number}" for number in range(3)]
        (stage.folder / folder).write_table(f"{last}.parquet", pa.table({"id": ids, "value": [1.0, 2.0, 3.0]}))
    pool = PoolResult(rows=6, tokens=18, shards=["a", "b"], sources={}, rejected={})
    stage.commit(PrepareResult(pool=pool, targets={"t": {}}, tokenizer={}))
    return stage


class Doubler:
    """Makes vectors of a row's value and of a factor, which may be NaN or 0."""

    def __init__(self, threads: int, out: Folder, factors: dict[str, float]) -> None:
        self.out, self.factors = out, factors

    def __call__(self, item: dict[str, str], ids: list[str], examples: list[dict[str, Any]]) -> dict[str, Any]:
        factors = [self.factors.get(row, 1.0) for row in ids]
        rows = [[example["value"] * factor, factor] for example, factor in zip(examples, factors, strict=True)]
        write_vectors(self.out, item, ids, np.array(rows, dtype=np.float32))
        memory, budget = (7, 100) if item["name"] == "a" else (5, 40)
        return {"tokens": len(ids), "peak_memory": memory, "token_budget": budget}


class Made(ForwardStage):
    """Runs the actors above on every table."""

    name = "made"
    position = 1

    def __init__(self, factors: dict[str, float]) -> None:
        self.factors = factors

    def actors(self, config: Any, out: Folder) -> ActorSpec:
        return ActorSpec(Doubler, (out, self.factors), "made.token_budget", 100, columns=["value"])


def run(prepare: StageFolder, resources: Any, factors: dict[str, float]) -> StageFolder:
    folder = Folder(prepare.folder.filesystem, prepare.folder.path.replace("prepare", "made"))
    stages = {"prepare": prepare, "made": StageFolder(folder, "made", {}, [prepare])}
    graph: Any = {StageKey(name): stage for name, stage in stages.items()}
    Made(factors).run(RunContext(None, graph, resources, Terminal()), [""])  # type: ignore[arg-type]
    return stages["made"]


def test_rows_without_a_direction_are_rejected_with_their_reason(prepare, resources, in_this_process, capsys):
    stage = run(prepare, resources, {"a1": np.nan, "b0": 0.0, "b2": np.inf, "validation2": -np.inf})
    reasons = {"a1": NOT_FINITE, "b0": ZERO, "b2": NOT_FINITE, "validation2": NOT_FINITE}
    manifest = stage.manifest()
    assert manifest["result"]["rejected"] == reasons
    assert (manifest["cost"]["tokens"], manifest["cost"]["peak_memory_bytes"]) == (9, 7)
    told = capsys.readouterr().out
    assert "rejected 3 rows with NaN or infinity, 1 rows with zero vector" in told
    assert "ran out of memory: batches of at most 40 tokens from here (made.token_budget is 100)" in told
    tables = {name: stage.folder.read_table(f"{name}.arrow") for name in ("pool/a", "pool/b", "validation/t")}
    assert {name: table["id"].to_pylist() for name, table in tables.items()} == {
        "pool/a": ["a0", "a2"],
        "pool/b": ["b1"],
        "validation/t": ["validation0", "validation1"],
    }
    assert tables["pool/a"]["embedding"].to_pylist() == [[1.0, 1.0], [3.0, 1.0]]
    assert tables["pool/a"].schema.field("embedding").type == pa.list_(pa.float32(), 2)


def test_large_vectors_have_a_direction(prepare, resources, in_this_process):
    stage = run(prepare, resources, {"a0": 3e38})
    assert stage.folder.read_table("pool/a.arrow")["id"].to_pylist() == ["a0", "a1", "a2"]


def test_an_interrupted_stage_makes_only_what_is_missing(prepare, resources, in_this_process, capsys):
    stage = run(prepare, resources, {"a1": 0.0})
    (Path(stage.folder.path) / "manifest.json").unlink()
    (Path(stage.folder.path) / "pool" / "b.arrow").unlink()
    in_this_process.clear()
    again = run(prepare, resources, {"a1": 0.0})
    assert in_this_process == ["pool/b.parquet"]
    assert "2 of 3 shards were there already" in capsys.readouterr().out
    assert again.manifest()["result"]["rejected"] == {"a1": ZERO}


def test_a_pool_without_any_usable_row_ends_the_study(prepare, resources, in_this_process):
    factors = dict.fromkeys(["a0", "a1", "a2", "b0", "b1", "b2"], np.nan)
    with pytest.raises(StudyError, match="made: no row of the pool has a usable result, 6 rows with NaN or infinity"):
        run(prepare, resources, factors)
