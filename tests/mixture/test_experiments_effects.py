import numpy as np
import pytest

from instsel.mixture.experiments import PlannedRun, effects_of_additions, effects_of_removals, subset_scores

NOTHING = np.empty(0, dtype=np.int64)


def _run(kind, sample, category=None, added=(0, 0)):
    return PlannedRun(f"{kind}-{sample}-{category}", kind, sample, category, NOTHING, added)


def _scores(first, second):
    return [np.array(first, dtype=float), np.array(second, dtype=float)]


RUNS = [
    _run("base", 0),
    _run("add", 0, 0, (10, 0)),
    _run("add", 0, 1, (0, 5)),
    _run("remove", 0, 1),
    _run("base", 1),
    _run("add", 1, 0, (10, 0)),
]
SCORES = [
    _scores([-2, -4], [-1, -1, -1]),
    _scores([-1, -2], [-1, -1, -1.3]),
    _scores([-2, -5], [-0.5, -0.5, -0.5]),
    _scores([-2, -6], [-1.5, -1, -1]),
    _scores([-3, -3], [-1, -1, -1]),
    None,
]


def test_effect_is_the_mean_change_and_counts_for_a_full_addition():
    effects, errors = effects_of_additions(RUNS, SCORES, added_rows=10)
    assert effects.shape == (2, 2, 2)
    assert effects[0].tolist() == [[1.5, pytest.approx(-0.1)], [-1.0, 1.0]]
    assert errors[0, 0, 0] == pytest.approx(0.5)
    # Five rows of category 1 stand for ten.
    assert errors[0, 1, 0] == pytest.approx(2 * 0.5)
    assert errors[0, 1, 1] == 0


def test_failed_and_missing_runs_are_nan():
    effects, _ = effects_of_additions(RUNS, SCORES, added_rows=10)
    assert np.isnan(effects[1]).all()


def test_base_that_failed_leaves_its_sample_unmeasured():
    effects, _ = effects_of_additions(RUNS, [None, *SCORES[1:]], added_rows=10)
    assert np.isnan(effects[0]).all()


def test_removals_have_the_scores_with_and_without():
    full, without, errors = effects_of_removals(RUNS, SCORES, 2)
    assert full[0].tolist() == [-3, -1]
    assert without[0, 1].tolist() == [-4, pytest.approx(-3.5 / 3)]
    assert np.isnan(without[0, 0]).all()
    assert np.isnan(without[1]).all()
    assert errors[0, 1, 0] == pytest.approx(1.0)


def test_subsets_count_additions_and_leave_failed_runs_out():
    runs = [_run("subset", 0, None, (10, 0)), _run("subset", 1, None, (0, 5)), _run("subset", 2, None, (10, 5))]
    included, scores = subset_scores(runs, [SCORES[0], None, SCORES[1]], added_rows=10)
    assert included.tolist() == [[1.0, 0.0], [1.0, 0.5]]
    assert scores[:, 0].tolist() == [-3.0, -1.5]
