"""What methods cost, selection and training on one axis, and which of them none beats for less."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from instsel.report.collect import collect
from instsel.report.compared import AccuracyFacts, Results
from instsel.report.page.spending import spending_parts
from instsel.report.record import StudyRecord
from instsel.report.results import results
from instsel.report.spending import _selection_seconds, pareto, spending, spending_text

POOL, VALIDATION, WARMUP, TRAINED, PARAMETERS = 720, 120, 500, 500, 1000


def test_a_selection_by_gradients_costs_the_warmup_and_a_pass_over_everything(study_folder: Path):
    facts = collect(StudyRecord(str(study_folder))).spending
    assert list(facts) == ["random", "bids", "smart"]
    assert (facts["random"].selection, facts["smart"].selection) == (0, 0)
    assert facts["bids"].selection == WARMUP + POOL + VALIDATION
    assert facts["bids"].training == facts["random"].training == TRAINED
    assert facts["bids"].flops == 4 * PARAMETERS * (WARMUP + POOL + VALIDATION + TRAINED)
    # Two seconds a stage: select, attribution, features and warmup; select alone; select and embed.
    assert [each.selection_seconds for each in facts.values()] == [2, 8, 4]


def test_bug_seconds_are_summed_in_the_same_order_in_every_process():
    # As terms of a sum, these show their order, and the order of a set is that of the process.
    seconds = [1e16, 1.0, -1e16, 1.0] * 5
    names = [f"stage-{number}" for number in range(len(seconds))]
    manifests = {name: {"cost": {"seconds": each}, "parents": names} for name, each in zip(names, seconds, strict=True)}
    record: Any = SimpleNamespace(manifests=manifests)
    run: Any = SimpleNamespace(selection="none")
    assert _selection_seconds(record, run, names) == sum(seconds)


def test_the_value_is_the_accuracy_where_there_is_one(tmp_path: Path, make_study_folder):
    losses = collect(StudyRecord(str(make_study_folder(tmp_path / "one")))).spending
    scores = collect(StudyRecord(str(make_study_folder(tmp_path / "two", scored=True)))).spending
    assert losses["bids"].value == pytest.approx(2.2) and scores["bids"].value == pytest.approx(0.45)
    # smart reaches more than both, and costs no pass of the model.
    assert [name for name, each in scores.items() if each.pareto] == ["smart"]


@pytest.mark.parametrize(("kind", "best"), [(Results, ["a", "b"]), (AccuracyFacts, ["a", "c"])])
def test_what_another_beats_is_not_on_the_front(kind: type, best: list[str]):
    results = kind(baseline="a", confidence=0.95)
    points = {"a": (1.0, 2.0), "b": (2.0, 1.0), "c": (3.0, 3.0), "d": (3.0, 1.5)}
    assert pareto(points, results) == best


def test_equal_points_are_both_on_the_front():
    results = Results(baseline="a", confidence=0.95)
    assert pareto({"a": (1.0, 2.0), "b": (1.0, 2.0)}, results) == ["a", "b"]


def test_it_stands_in_the_reports(study_folder: Path):
    facts = collect(StudyRecord(str(study_folder)))
    text = "\n".join(spending_text(facts))
    assert "| **smart** | 1.700 | 0 | 500 | 0.0 | 4.0 | 2.0 |" in text
    chart, table = spending_parts(facts)
    assert [trace["name"] for trace in chart.traces] == ["random", "bids", "smart"] and len(table.rows) == 3


def test_a_study_that_has_trained_nothing_has_no_costs(tmp_path: Path, make_study_folder):
    facts = collect(StudyRecord(str(make_study_folder(tmp_path / "one", until="select"))))
    assert facts.spending == {} and spending_text(facts) == [] and spending_parts(facts) == []


def test_bug_contrast_gradients_cost_nothing(study_folder: Path):
    config = json.loads((study_folder / "config.json").read_text())
    config["selection"]["methods"][1]["attribution"] = "contrast"
    (study_folder / "config.json").write_text(json.dumps(config))
    for name, parents in (("contrast", {"features": "x"}), ("attribution/contrast", {"contrast": "x"})):
        folder = study_folder / name
        folder.mkdir(parents=True)
        manifest = json.loads((study_folder / "features" / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "stage": name, "parents": parents}))
    record = StudyRecord(str(study_folder))
    contrast = spending(record, [results(record)[0]])["bids"]
    # As much again as the gradients of the fixture, 100 tokens a stage.
    assert contrast.selection == WARMUP + POOL + VALIDATION + 100
