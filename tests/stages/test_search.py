"""A search on a small study: two trials, and what is left of them when it is stopped and begun again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from instsel.errors import InputError
from instsel.progress import Terminal
from instsel.report.markdown import BASE
from instsel.search.outcome import Outcome
from instsel.search.settings import Search
from instsel.stages.graph import build_graph
from instsel.stages.search import TokenCap, _domain, _note_stopped, _optuna, _outcomes
from instsel.stages.search_study import search_study
from instsel.stages.trial import OUTCOME, OWNER, trial_folder
from instsel.storage import Folder
from instsel.study_file import load_study, parse_study

SPACE = {"method": ["random", "bids"], "finetune.learning_rate": [1e-2]}


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, finished_study: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """The keys of a study whose two points were searched, and the folder of its search."""
    out = tmp_path_factory.mktemp("searched") / "study"
    shutil.copytree(finished_study["out"], out)
    selection = {"budget": 4, "methods": ["random", "bids"]}
    search = {"space": SPACE, "searcher": "grid", "trials": 2, "objective": {"worst": 0.5}}
    raw = {**finished_study, "out": str(out), "selection": selection, "search": search}
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
    before = (folder / "trials.parquet").stat().st_mtime_ns
    search_study(parse_study(raw, "test"), Terminal())
    assert "it is finished" in capsys.readouterr().out
    assert (folder / "trials.parquet").stat().st_mtime_ns == before


def test_stopped_search_goes_on_with_the_trial_that_was_under_way(searched, tmp_path, capsys):
    raw, folder = searched
    out = tmp_path / "study"
    shutil.copytree(raw["out"], out)
    left, done = (trial["name"] for trial in _trials(folder))
    search = next(path for path in (out / "search").iterdir() if (path / "points").exists())
    (search / "manifest.json").unlink()
    point = json.loads((search / "points" / f"{left}.json").read_text())
    (search / "points" / f"{left}.json").write_text(json.dumps({**point, "told": None}))
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


class _Result:
    def __init__(self, metrics, error=None):
        self.metrics, self.error = metrics, error


def test_trial_that_was_stopped_early_counts_as_such_and_one_cut_off_as_under_way(tmp_path):
    points, trials = Folder.at(tmp_path / "points"), Folder.at(tmp_path / "trials")
    told = {"failed": None, "objective": 2.0, "tokens": 5, "epoch": 1, "last": False}
    for name in ("stopped", "cut"):
        points.write_json(f"{name}.json", {"point": {"method": "a"}, "told": told})
    _note_stopped([_Result({"trial": "stopped"}), _Result({"trial": "cut"}, error=RuntimeError())], points)
    found = _outcomes(Search(space={"method": ["a"]}), points, trials)
    assert found["cut"] is None
    assert found["stopped"].stopped and found["stopped"].objective == 2.0


def test_diverged_trial_is_marked_failed(tmp_path):
    points = Folder.at(tmp_path / "points")
    told = {"failed": "loss is nan", "tokens": 0, "epoch": 1, "last": True}
    points.write_json("bad.json", {"point": {}, "told": told})
    found = _outcomes(Search(space={"method": ["a"]}), points, Folder.at(tmp_path / "trials"))
    assert found["bad"].failed == "loss is nan" and found["bad"].objective == float("inf")


def test_cap_of_tokens_counts_what_all_trials_took():
    cap = TokenCap(10)
    assert not cap("a", {"tokens": 6}) and not cap.stop_all()
    cap("a", {"tokens": 7})
    assert not cap.stop_all()
    cap("b", {"tokens": 3})
    assert cap.stop_all()
