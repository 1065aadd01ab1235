"""Runs of finetune side by side; that they train is shown by the finished study, whose runs were."""

import shutil
from pathlib import Path

import pytest

from instsel.config.file import parse_study
from instsel.console import Terminal
from instsel.errors import Diverged
from instsel.io.store import Folder
from instsel.pipeline import finetune
from instsel.runtime.training_run import Trained
from instsel.study.graph import build_graph
from instsel.study.reader import StudyReader


@pytest.fixture
def side_by_side(finished_study, resources, tmp_path, monkeypatch):
    """Call `run_all` on two runs that are not done, one after the other in this process; tells which were trained."""
    study = parse_study({**finished_study, "finetune": {"epochs": 2}, "resources": {"trial_workers": 1}}, "test")
    shutil.copytree(Path(finished_study["out"], "select"), tmp_path / "select")
    graph = build_graph(study, Folder.at(finished_study["out"]), Folder.at(tmp_path))
    trained = []

    def train(diverge):
        def every_run(study, title, runs, resources, groups, terminal, on_end):
            for place, run in enumerate(runs):
                name = run.name.removeprefix("finetune/")
                trained.append(name)
                on_end(place, Diverged("the loss is nan") if name == diverge else Trained({}, 0, 0))

        monkeypatch.setattr(finetune, "train_side_by_side", every_run)
        waiting = [name for name in graph.runs if not graph.finetune[name].done()]
        finetune.run_all(study, graph, waiting, StudyReader(graph.folder), resources, Terminal())

    return train, graph, trained


def test_run_that_diverges_is_named_after_the_others_have_ended(side_by_side):
    train, graph, trained = side_by_side
    with pytest.raises(Diverged, match="finetune random: the loss is nan"):
        train(diverge="random")
    assert trained == ["random", "bids"]
    assert graph.finetune["bids"].done() and not graph.finetune["random"].done()


def test_run_that_is_done_is_not_trained_again(side_by_side):
    train, graph, trained = side_by_side
    train(diverge=None)
    train(diverge=None)
    assert trained == ["random", "bids"]
    assert all(graph.finetune[name].done() for name in ("random", "bids"))
