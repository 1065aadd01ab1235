"""Runs of finetune side by side; that they train is shown by the finished study, whose runs were."""

import pytest

from instsel.choice.inputs import Inputs
from instsel.errors import Diverged
from instsel.progress import Terminal
from instsel.stages import finetune
from instsel.stages.graph import build_graph
from instsel.storage import Folder
from instsel.study_file import parse_study


@pytest.fixture
def side_by_side(finished_study, allot, tmp_path, monkeypatch):
    """Call `run_all` on two runs that are not done, one after the other in this process; tells which were trained."""
    study = parse_study({**finished_study, "finetune": {"epochs": 2}}, "test")
    graph = build_graph(study, Folder.at(finished_study["out"]), Folder.at(tmp_path))
    trained = []

    def train(diverge):
        def run(study, stage, selection, by, *_):
            stage.begin()
            trained.append(by.name)
            if by.name == diverge:
                raise Diverged("the loss is nan")
            stage.commit({})

        monkeypatch.setattr(finetune, "run", run)
        monkeypatch.setattr(finetune, "run_each", lambda title, names, one, *_: [one(name) for name in names])
        finetune.run_all(study, graph, list(graph.runs), Inputs(graph.folder), allot, Terminal())

    return train, graph, trained


def test_run_that_diverges_is_named_after_the_others_have_ended(side_by_side):
    train, graph, trained = side_by_side
    with pytest.raises(Diverged, match="finetune random: the loss is nan"):
        train(diverge="random")
    assert trained == ["random", "bids"]
    assert graph.finetune["bids"].done() and not graph.finetune["random"].done()


def test_run_that_a_dead_process_had_finished_is_not_trained_again(side_by_side):
    train, graph, trained = side_by_side
    train(diverge=None)
    train(diverge=None)
    assert trained == ["random", "bids"]
    assert all(graph.finetune[name].done() for name in ("random", "bids"))
