"""A search on a small study: two trials, and what is left of them when it is stopped and begun again."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune

from instsel.errors import InputError, StudyError
from instsel.progress import Terminal
from instsel.report.markdown import BASE
from instsel.search.outcome import Outcome
from instsel.search.settings import Search
from instsel.stages.graph import build_graph
from instsel.stages.points import Points
from instsel.stages.search import Marking, TokenCap, _domain, _in_turn, _optuna, told
from instsel.stages.search_study import _stage, search_study
from instsel.stages.trial import OUTCOME, OWNER, trial_folder
from instsel.storage import Folder
from instsel.study_file import load_study, parse_study
from tests.events import scalars

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
    graph = build_graph(best, Folder.at(tmp_path))
    evaluated = next(stage for name, stage in graph.evaluate.items() if name != BASE)
    assert evaluated.fingerprint.startswith(_trials(folder)[0]["name"])


def test_report_names_the_best_and_the_pareto_set(searched):
    _, folder = searched
    report = (folder / "report.md").read_text()
    best = _trials(folder)[0]
    assert f"method {best['point']['method']}" in report
    assert "Pareto" in report and (folder / "pareto.svg").read_bytes().startswith(b"<?xml")


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


@pytest.mark.long
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
            file.write_text(json.dumps({**point, "told": None}))
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
        Points(Folder.at(points), Folder.at(folder / "trials"), Search(space=SPACE, searcher="grid", share=share))
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


def _known(name, point, objective):
    return point, Outcome(name, point, objective, 1, {}, {})


def test_new_searcher_asks_first_for_what_was_under_way():
    search = Search(space={"method": ["a", "b"], "finetune.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}})
    space = {key: _domain(values, search) for key, values in search.space.items()}
    waiting = {"method": "b", "finetune.learning_rate": 3e-3}
    known = _known("x", {"method": "a", "finetune.learning_rate": 1e-3}, 1.5)
    searcher = _optuna(search, space, [known, (waiting, None)])
    assert searcher.suggest("first") == waiting
    assert len(searcher._ot_study.trials) == 2


def test_ranges_of_whole_numbers_have_both_their_ends():
    search = Search(space={"finetune.epochs": {"low": 1, "high": 2}})
    domain = _domain(search.space["finetune.epochs"], search)
    assert isinstance(domain, tune.search.sample.Integer)
    assert {domain.sample() for _ in range(60)} == {1, 2}


@pytest.fixture
def points(tmp_path):
    return Points(Folder.at(tmp_path / "points"), Folder.at(tmp_path / "trials"), Search(space={"method": ["a"]}))


def test_point_under_way_has_no_outcome_until_it_ends(points):
    told = {"failed": None, "objective": 2.0, "tokens": 5, "epoch": 1, "last": False, "stopped": False}
    points.note({"method": "a"}, "trial", told)
    assert points.outcomes() == [({"method": "a"}, None)]
    points.end({"method": "a"}, failed=None)
    ((_, outcome),) = points.outcomes()
    assert outcome.stopped and outcome.objective == 2.0


def test_bug_trial_whose_process_died_was_lost(points):
    points.note({"method": "a"}, "trial", None)
    points.end({"method": "a"}, failed="out of memory")
    points.end({"method": "b"}, failed="was never asked")
    assert sorted(outcome.failed for _, outcome in points.outcomes()) == ["out of memory", "was never asked"]


def test_trial_that_told_its_last_keeps_it(points):
    told = {"failed": "loss is nan", "tokens": 0, "epoch": 1, "last": True, "stopped": False}
    points.note({}, "bad", told)
    points.end({}, failed=None)
    ((_, outcome),) = points.outcomes()
    assert outcome.failed == "loss is nan" and outcome.objective == float("inf")


def test_bug_stopped_trial_became_the_best_study(points):
    early = {"failed": None, "objective": 0.1, "tokens": 5, "epoch": 1, "last": False, "stopped": False}
    points.note({"method": "a"}, "trial", early)
    points.end({"method": "a"}, failed=None)
    with pytest.raises(StudyError, match="no trial came to its end"):
        told(points)


def test_bug_trial_that_was_stopped_early_was_under_way_again_after_a_kill(points):
    early = {"failed": None, "objective": 2.0, "tokens": 5, "epoch": 1, "last": False, "stopped": False}
    points.note({"method": "a"}, "trial", early)
    bar = SimpleNamespace(done=0, advance=lambda number: setattr(bar, "done", bar.done + number))
    Marking(bar, points).on_trial_complete(1, [], SimpleNamespace(config={"method": "a"}))
    ((_, outcome),) = points.outcomes()
    assert outcome.stopped and outcome.objective == 2.0 and bar.done == 1


def test_cap_of_tokens_counts_what_all_trials_took():
    cap = TokenCap(10)
    assert not cap("a", {"tokens": 6}) and not cap.stop_all()
    cap("a", {"tokens": 7})
    assert not cap.stop_all()
    cap("b", {"tokens": 3})
    assert cap.stop_all()


def test_bug_trials_of_a_grid_all_ran_at_once():
    assert _in_turn(Search(space={"method": ["a", "b"]}, searcher="grid"), 1).max_concurrent == 1
