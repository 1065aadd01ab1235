"""Interventions on a study where a row of a category lowers losses by amounts that the test sets."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from instsel.config.file import parse_study
from instsel.console import Terminal
from instsel.errors import Diverged, StudyError
from instsel.io.store import Folder
from instsel.pipeline import category_runs
from instsel.pipeline.evaluate import EvaluationSet
from instsel.pipeline.registry import build_graph
from instsel.runtime import training
from instsel.runtime.training_run import Trained, TrainingRun
from instsel.study.folder import Cost
from instsel.study.graph import StageGraph
from instsel.study.results import TrainingResult
from instsel.study.stage import RunContext
from tests.studies import run_stage, stage_context

SOURCES = ["baskets", "letters", "trains"]
# How much a row (left) lowers the loss on a category (above).
HELP = np.array([[0.5, 0.1, -0.2], [0.0, 0.4, 0.2], [0.05, 0.0, 0.3]])
PLAN = {"bases": 2, "base_rows": 7, "added_rows": 3}
SUBSETS = {"runs": 12, "base_rows": 4, "added_rows": 3, "ridge": 1e-9}
MIXTURE = {
    "evaluation_rows": 2,
    "least_rows": 4,
    "estimator": "interventions",
    "compare": ["regression"],
    "interventions": PLAN,
    "regression": SUBSETS,
    "threshold": 0.0,
}


class Cluster:
    """Stands for training and evaluation: a run's losses follow from the rows of its training set."""

    def __init__(self, sources: dict[str, str]) -> None:
        self.sources = sources
        self.trained: list[str] = []
        self.diverge: set[str] = set()
        self.stop_after: int | None = None

    def train(self, session: Any, title: str, runs: list[TrainingRun], groups: int, on_end: Any) -> None:
        for index, run in enumerate(runs):
            if self.stop_after is not None and len(self.trained) >= self.stop_after:
                raise StudyError("stopped")
            self.trained.append(run.name)
            epoch = {"epoch": 1, "step": 1, "loss": 1.0, "learning_rate": 0.1, "tokens": 10, "seconds": 0.1}
            good = Trained(TrainingResult(run="run", checkpoints={"epoch-1": epoch}), 10, 1)
            on_end(index, Diverged("nan") if run.name in self.diverge else good)

    def evaluate(self, context: Any, sets: list[EvaluationSet], rows: Folder) -> dict[str, Cost]:
        for each in sets:
            ids = each.stage.read_table("training.arrow", ["id"])["id"].to_pylist()
            counts = np.array([sum(self.sources[row] == source for row in ids) for source in SOURCES])
            table = rows.read_table(each.rows, ["id"])
            level = 9 - counts @ HELP[:, int(each.target)]
            losses = level + 0.01 * np.arange(len(table))
            each.out.write_table(f"{each.target}.parquet", pa.table({"id": table["id"], "loss": losses}))
        return {}


@pytest.fixture
def study(finished_study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The study after stage *tag*, and the cluster that its runs go to."""
    out = tmp_path / "study"
    shutil.copytree(finished_study["out"], out)
    made = parse_study({**finished_study, "out": str(out), "mixture": MIXTURE}, "test")
    graph = build_graph(made, Folder.at(out))
    context = stage_context(made)
    run_stage(context, "categorize")
    index = context.study.index
    cluster = Cluster(dict(zip(index["id"].to_pylist(), index["source"].to_pylist(), strict=True)))
    monkeypatch.setattr(training, "train_side_by_side", cluster.train)
    monkeypatch.setattr(category_runs, "evaluate_sets", cluster.evaluate)
    return made, graph, cluster


def _run(study: Any, graph: StageGraph, resources: Any, estimator: Any = "interventions") -> dict[str, Any]:
    context = RunContext(study, graph, resources, Terminal())
    stage = run_stage(context, "interaction", estimator)
    return stage.manifest()["result"]


def test_gamma_is_the_help_that_was_planted(study, resources):
    made, graph, _ = study
    result = _run(made, graph, resources)
    assert np.array(result["gamma"]) == pytest.approx(HELP / np.diagonal(HELP))
    assert np.array(result["error"]) == pytest.approx(0, abs=1e-9)
    assert result["self_effect"] == pytest.approx(3 * np.diagonal(HELP))


def test_needs_are_the_help_that_was_planted(study, resources):
    made, graph, _ = study
    needs = _run(made, graph, resources)["dependency"]["needs"]
    expected = {(SOURCES[i], SOURCES[j]) for i, j in np.argwhere(HELP > 0).tolist() if i != j}
    assert {(pair["needs"], pair["category"]) for pair in needs} == expected


def test_every_run_is_in_the_table(study, resources):
    made, graph, cluster = study
    _run(made, graph, resources)
    table = graph["interaction", "interventions"].folder.read_table("runs.parquet").to_pandas()
    assert sorted(table["run"].unique()) == sorted(cluster.trained)
    assert (table.groupby("run").size() == 3).all()
    base = table[table["run"] == "base-0"].iloc[0]
    assert (base["kind"], base["rows"]) == ("base", 7)
    assert set(table[table["kind"] == "add"]["category"]) == set(SOURCES)


def test_stopped_study_goes_on_with_the_runs_that_are_missing(study, resources):
    made, graph, cluster = study
    whole = build_graph(made, graph.folder)
    cluster.stop_after = 4
    with pytest.raises(StudyError, match="stopped"):
        _run(made, graph, resources)
    first = list(cluster.trained)
    cluster.stop_after = None
    result = _run(made, whole, resources)
    assert len(first) == 4 and len(set(cluster.trained)) == len(cluster.trained)
    assert np.array(result["gamma"]) == pytest.approx(HELP / np.diagonal(HELP))


def test_diverged_run_is_left_out_and_named(study, resources, capsys):
    made, graph, cluster = study
    cluster.diverge = {"add-0-1"}
    result = _run(made, graph, resources)
    assert result["failed"] == ["add-0-1"]
    assert "1 runs diverged and are left out: add-0-1" in capsys.readouterr().out
    assert np.array(result["gamma"]) == pytest.approx(HELP / np.diagonal(HELP))


def test_nothing_is_estimated_where_all_samples_failed(study, resources):
    made, graph, cluster = study
    cluster.diverge = {"base-0", "base-1"}
    with pytest.raises(StudyError, match="was measured on no sample"):
        _run(made, graph, resources)


def test_category_that_harms_itself_is_unknown(study, resources, monkeypatch, capsys):
    made, graph, _ = study
    harmed = HELP.copy()
    harmed[2, 2] = -0.3
    monkeypatch.setitem(globals(), "HELP", harmed)
    result = _run(made, graph, resources)
    assert result["unknown"] == ["trains"]
    assert [row[2] for row in result["gamma"]] == [None, None, 1.0]
    assert "unknown for trains" in capsys.readouterr().out


def test_regression_finds_the_help_that_was_planted(study, resources):
    made, graph, cluster = study
    result = _run(made, graph, resources, "regression")
    assert len(cluster.trained) == 12
    assert np.array(result["gamma"]) == pytest.approx(HELP / np.diagonal(HELP), abs=1e-4)


def test_bug_another_threshold_or_more_samples_trained_finished_runs_again(study, resources):
    made, graph, cluster = study
    _run(made, graph, resources)
    first = len(cluster.trained)
    for changes, more in (({"threshold": 0.5}, 0), ({"interventions": {**PLAN, "bases": 3}}, 7)):
        mixture = made.mixture.model_dump(exclude_unset=True) | changes
        raw = made.model_dump(exclude_unset=True) | {"mixture": mixture}
        other = parse_study(raw, "test")
        _run(other, build_graph(other, graph.folder), resources)
        assert len(cluster.trained) <= first + more
    assert len(cluster.trained) > first


def test_bug_a_full_disk_was_taken_for_a_diverged_run(study, resources, monkeypatch):
    made, graph, cluster = study

    def fail(*_: Any) -> Any:
        raise StudyError("no space left")

    monkeypatch.setattr(training, "train_side_by_side", fail)
    with pytest.raises(StudyError, match="no space left"):
        _run(made, graph, resources)
    assert not list(Path(str(graph.folder)).glob("interaction/runs/*/trained.json"))
