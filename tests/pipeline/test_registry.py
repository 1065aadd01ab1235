"""Which stages there are, and that a new one is a file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import instsel.pipeline
from instsel.config.file import parse_study
from instsel.io.store import Folder
from instsel.pipeline.registry import build_graph, load_stages, stage_names
from tests.studies import run_stage

STAGE = """
from instsel.study.results import PrepareResult, Result
from instsel.study.stage import Finished, Stage, StageKey


class LengthsResult(Result):
    tokens: dict[str, int]


class Lengths(Stage[LengthsResult]):
    name = "lengths"
    position = 15
    is_goal = True

    def parents(self, config, key):
        return [StageKey("prepare")]

    def run_key(self, context, key):
        pool = context.stage("prepare").result(PrepareResult).pool
        return Finished(LengthsResult(tokens={name: count.tokens for name, count in pool.sources.items()}))
"""


def test_stages_come_in_the_order_in_which_they_run():
    assert stage_names() == [
        "prepare", "answers", "embed", "hidden_states", "likelihood", "categorize", "warmup", "features", "contrast",
        "attribution", "interaction", "select", "finetune", "evaluate", "report",
    ]  # fmt: skip
    positions = [stage.position for stage in load_stages()]
    assert positions == sorted(set(positions))


def test_parents_run_before(tiny_study: Callable[..., dict[str, Any]], tmp_path: Path):
    config = parse_study(tiny_study(mixture={}), "test")
    position = {stage.name: stage.position for stage in load_stages()}
    for stage in load_stages():
        for key in stage.keys(config):
            assert all(position[parent.stage] < stage.position for parent in stage.parents(config, key))


@pytest.fixture
def with_new_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The package of stages with one more file in it."""
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "lengths.py").write_text(STAGE)
    monkeypatch.setattr(instsel.pipeline, "__path__", [*instsel.pipeline.__path__, str(tmp_path / "new")])
    load_stages.cache_clear()
    yield
    load_stages.cache_clear()


def test_a_new_stage_is_one_file_that_a_study_runs(with_new_stage, finished_study: dict[str, Any]):
    from instsel.console import Terminal
    from instsel.study.stage import RunContext

    config = parse_study(finished_study, "test")
    graph = build_graph(config, Folder.at(finished_study["out"]))
    assert list(graph.open_keys("report")) == ["lengths"]
    context: Any = RunContext(config, graph, None, Terminal())  # type: ignore[arg-type]
    folder = run_stage(context, "lengths")
    sources = graph["prepare"].manifest()["result"]["pool"]["sources"]
    assert folder.manifest()["result"] == {"tokens": {name: count["tokens"] for name, count in sources.items()}}
    assert folder.done()
    folder.folder.remove()
