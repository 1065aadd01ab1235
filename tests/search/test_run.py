"""A search on a small study: two trials, and what is left of them when it is stopped and begun again."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from instsel.config.file import load_study, parse_study
from instsel.config.search import Search
from instsel.console import Terminal
from instsel.errors import InputError
from instsel.evaluation.halves import searched_rows
from instsel.io.store import Folder
from instsel.pipeline.registry import build_graph
from instsel.pipeline.runner import run_study
from instsel.report.html import write_report
from instsel.search.run import _stage, search_study
from instsel.search.trial import OUTCOME, OWNER, TrialStore, trial_folder
from instsel.study.runs import BASE
from tests.events import scalars

pytestmark = pytest.mark.long
SPACE = {"method": ["random", "bids"], "finetune.learning_rate": [1e-2]}


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, finished_study: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """The keys of a study whose two points were searched, and the folder of its search."""
    out = tmp_path_factory.mktemp("searched") / "study"
    shutil.copytree(finished_study["out"], out)
    selection = {"budget": 4, "methods": ["random", "bids"]}
    search = {"space": SPACE, "searcher": "grid", "trials": 2, "objective": {"worst": 0.5}}
    tracking = {"tensorboard": str(out.parent / "boards")}
    raw = {**finished_study, "out": str(out), "selection": selection, "search": search, "tracking": tracking}
    return raw, Path(str(search_study(parse_study(raw, "test"), Terminal())))


def _trials(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "summary.json").read_text())["trials"]


def test_every_point_is_tried_and_the_best_comes_first(searched):
    _, folder = searched
    trials = _trials(folder)
    assert {trial["point"]["method"] for trial in trials} == {"random", "bids"}
    assert trials[0]["objective"] <= trials[1]["objective"]
    for trial in trials:
        losses = list(trial["searched"].values())
        assert trial["objective"] == pytest.approx(0.5 * sum(losses) / 2 + 0.5 * max(losses))
        assert trial["tokens"] > 0 and set(trial["judged"]) == {"sums", "cities"}


def test_a_tracker_is_told_the_losses_and_the_objective_of_each_trial(searched):
    raw, folder = searched
    for trial in _trials(folder):
        board = Path(raw["tracking"]["tensorboard"]) / raw["name"] / "search/trials" / trial["name"]
        told = {name: (step, value) for name, step, value in scalars(board)}
        assert told["objective"] == (1, pytest.approx(trial["objective"]))
        assert told["tokens"] == (1, trial["tokens"])
        (training,) = (board / "finetune").iterdir()
        assert {name for name, _, _ in scalars(training)} >= {"loss", "learning_rate", "epoch_loss"}


def test_trials_share_what_comes_before_the_selection(searched):
    raw, folder = searched
    for trial in _trials(folder):
        own = {path.name for path in (folder / "trials" / trial["name"]).iterdir() if path.is_dir()}
        assert own == {"select", "finetune", "evaluate"}
    assert (Path(raw["out"]) / "features" / "manifest.json").exists()


def test_best_study_is_the_best_trial_when_it_runs_by_itself(searched, tmp_path):
    raw, folder = searched
    best = load_study(folder / "best.yaml")
    assert best.name == "tiny-best" and best.out == f"{raw['out']}-best"
    best = best.model_copy(update={"evaluation": best.evaluation.model_copy(update={"searched_share": None})})
    graph = build_graph(best, Folder.at(tmp_path))
    evaluated = next(stage for name, stage in graph.of("evaluate").items() if name != BASE)
    assert evaluated.fingerprint.startswith(_trials(folder)[0]["name"])


def test_fault_12_the_best_study_is_judged_by_rows_that_did_not_choose_it_beside_random(searched, tmp_path):
    raw, folder = searched
    best = load_study(folder / "best.yaml")
    methods = best.selection.methods
    assert [method.is_reference for method in methods].count(True) == 1
    out = tmp_path / "best"
    run_study(parse_study({**best.model_dump(exclude_unset=True), "out": str(out)}, "test"), Terminal())
    trial = _trials(folder)[0]
    evaluated = pa.parquet.read_table(out / "evaluate" / methods[0].name / "sums.parquet")
    # Beside rounding the losses are those that the search's own report has of these rows.
    assert evaluated["loss"].to_numpy().mean() == pytest.approx(trial["judged"]["sums"], rel=1e-4)
    heldout = pa.parquet.read_table(out / "prepare/targets/sums/heldout.parquet")["id"].to_pylist()
    chosen = set(np.asarray(heldout)[searched_rows(heldout, 0.5)].tolist())
    assert set(heldout) - chosen == set(evaluated["id"].to_pylist())
    assert "Of the 50% of the held-out rows by which no search chose this study." in (out / "report.md").read_text()


def test_report_names_the_best_and_the_pareto_set(searched, tmp_path):
    _, folder = searched
    report = (folder / "report.md").read_text()
    best = _trials(folder)[0]
    assert f"method {best['point']['method']}" in report
    assert "Pareto" in report and "![" not in report
    assert b"<html>" in (folder / "pareto.html").read_bytes()[:40]
    assert "<h2>Search</h2>" in Path(write_report([str(folder.parent)], str(tmp_path / "page.html"))[1]).read_text()


def test_finished_search_is_told_again_without_a_trial(searched, capsys):
    raw, folder = searched
    trials = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/*")}
    before = (folder / "report.md").read_bytes()
    # As another search of the same study would leave it.
    (folder / "report.md").write_text("of another search")
    search_study(parse_study(raw, "test"), Terminal())
    assert "it is finished" in capsys.readouterr().out
    assert (folder / "report.md").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/*")} == trials


def test_stopped_search_goes_on_with_the_trial_that_was_under_way(searched, tmp_path, capsys):
    raw, folder = searched
    out = tmp_path / "study"
    shutil.copytree(raw["out"], out)
    left, done = (trial["name"] for trial in _trials(folder))
    (points,) = (out / "search").glob("*/points")
    (points.parent / "manifest.json").unlink()
    for file in points.iterdir():
        point = json.loads(file.read_text())
        if point["trial"] == left:
            file.write_text(json.dumps({**point, "progress": None}))
    trial = out / "search" / "trials" / left
    (trial / OUTCOME).unlink()
    (trial / OWNER).write_text(json.dumps({"trial": "one that is dead"}))
    shutil.rmtree(trial / "evaluate")
    trained = next(trial.glob("finetune/*/manifest.json")).stat().st_mtime_ns
    kept = (out / "search" / "trials" / done / OUTCOME).stat().st_mtime_ns
    search_study(parse_study({**raw, "out": str(out)}, "test"), Terminal())
    assert "1 trials were there already" in capsys.readouterr().out
    assert next(trial.glob("finetune/*/manifest.json")).stat().st_mtime_ns == trained
    assert (out / "search" / "trials" / done / OUTCOME).stat().st_mtime_ns == kept
    assert _trials(out / "search") == _trials(folder)


def test_bug_another_share_told_the_losses_of_the_first(searched, tmp_path):
    raw, folder = searched
    (points,) = folder.glob("*/points")
    found = [
        TrialStore(Folder.at(points), Folder.at(folder / "trials"), Search(space=SPACE, searcher="grid", share=share))
        for share in (0.5, 0.25)
    ]
    half, quarter = ({outcome.name: outcome.searched for _, outcome in one.outcomes()} for one in found)
    assert half.keys() == quarter.keys() and all(half[name] != quarter[name] for name in half)


def test_bug_higher_cap_began_a_new_search(searched):
    raw, _ = searched
    study = parse_study(raw, "test")
    more = parse_study({**raw, "search": {**raw["search"], "trials": 9, "tokens": 10**6}}, "test")
    graph = build_graph(study, Folder.at(raw["out"]))
    assert str(_stage(study, study.search, graph).folder) == str(_stage(more, more.search, graph).folder)


def test_two_trials_of_one_study_at_the_same_time_have_a_folder_each(searched, tmp_path):
    raw, _ = searched
    study = parse_study({**raw, "search": None, "selection": {"budget": 4, "methods": ["random"]}}, "test")
    shared, trials = Folder.at(raw["out"]), Folder.at(tmp_path)
    first, again, other = (trial_folder(study, shared, trials, trial) for trial in ("a", "a", "b"))
    assert str(first) == str(again) != str(other)
    first.write_json(OUTCOME, {})
    assert str(trial_folder(study, shared, trials, "b")) == str(first)


def test_study_without_a_search_or_without_heldout_rows_is_refused(searched, tmp_path):
    raw, _ = searched
    with pytest.raises(InputError, match="no key `search`"):
        search_study(parse_study({**raw, "search": None}, "test"), Terminal())
