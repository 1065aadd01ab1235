"""Runs of finetune side by side; that they train is shown by the finished study, whose runs were."""

import shutil
from pathlib import Path

import pytest

from instsel.config.file import parse_study
from instsel.console import Terminal
from instsel.errors import Diverged
from instsel.io.store import Folder
from instsel.pipeline.registry import build_graph
from instsel.runtime import training
from instsel.runtime.training_run import Trained
from instsel.study.results import TrainingResult
from instsel.study.stage import RunContext


@pytest.fixture
def side_by_side(finished_study, resources, tmp_path, monkeypatch):
    """Call `run_all` on two runs that are not done, one after the other in this process; tells which were trained."""
    study = parse_study({**finished_study, "finetune": {"epochs": 2}, "resources": {"trial_workers": 1}}, "test")
    shutil.copytree(Path(finished_study["out"], "select"), tmp_path / "select")
    graph = build_graph(study, Folder.at(finished_study["out"]), Folder.at(tmp_path))
    trained = []

    def train(diverge):
        def every_run(session, title, runs, groups, on_end):
            for index, run in enumerate(runs):
                name = run.name.removeprefix("finetune/")
                trained.append(name)
                good = Trained(TrainingResult(run="run", checkpoints={}), 0, 0)
                on_end(index, Diverged("the loss is nan") if name == diverge else good)

        monkeypatch.setattr(training, "train_side_by_side", every_run)
        waiting = [name for name in graph.runs if not graph["finetune", name].done()]
        if waiting:
            graph.stage("finetune").run(RunContext(study, graph, resources, Terminal()), waiting)

    return train, graph, trained


def test_run_that_diverges_is_named_after_the_others_have_ended(side_by_side):
    train, graph, trained = side_by_side
    with pytest.raises(Diverged, match="finetune random: the loss is nan"):
        train(diverge="random")
    assert trained == ["random", "bids"]
    assert graph["finetune", "bids"].done() and not graph["finetune", "random"].done()


def test_run_that_is_done_is_not_trained_again(side_by_side):
    train, graph, trained = side_by_side
    train(diverge=None)
    train(diverge=None)
    assert trained == ["random", "bids"]
    assert all(graph["finetune", name].done() for name in ("random", "bids"))
