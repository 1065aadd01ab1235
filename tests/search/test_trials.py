"""What a search keeps of its points, and what it asks for next."""

from types import SimpleNamespace

import pytest
from ray import tune

from instsel.config.search import Search
from instsel.errors import StudyError
from instsel.io.store import Folder
from instsel.search.outcome import Outcome
from instsel.search.trial import TrialStore
from instsel.search.trials import Marking, TokenCap, _domain, _in_turn, _optuna, finished_outcomes


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
    return TrialStore(Folder.at(tmp_path / "points"), Folder.at(tmp_path / "trials"), Search(space={"method": ["a"]}))


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
        finished_outcomes(points)


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
