"""What the estimators take, against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from instsel.config.file import parse_study
from instsel.planner.facts import Facts, Throughput
from instsel.planner.mixture import plan_interaction, plan_tag
from instsel.planner.rows import RowSet

MIXTURE = {
    "evaluation_rows": 10,
    "interventions": {"bases": 2, "base_rows": 30, "added_rows": 20},
    "regression": {"runs": 4, "share": 0.5, "base_rows": 10, "added_rows": 20},
}
PACES = {
    "features": Throughput(7.0, 200.0, memory=2 * 10**9, processes=4, together=2),
    "interaction": Throughput(6.0, 50.0, memory=10**9, processes=2, together=2),
}


def _study(**mixture):
    keys = {
        "name": "s",
        "out": "nowhere",
        "model": {"name": "m"},
        "pool": [{"path": "p.jsonl"}],
        "targets": {"t": {"validation": "v.jsonl"}},
        "selection": {"budget": 0.1, "methods": ["random"]},
        "warmup": {"epochs": 3},
        "finetune": {"epochs": 2},
    }
    return parse_study({**keys, "mixture": {**MIXTURE, **mixture}}, "test")


@pytest.fixture
def facts():
    pool = [RowSet(100, 1, np.full(100, 20), np.full(100, 5))]
    return Facts(pool, [], [], {}, 10, categories=3, paces=PACES)


def _plan(facts, *estimators, study=None):
    return plan_interaction(study or _study(), replace(facts, todo={"interaction": estimators}))


def test_interventions_train_on_bases_additions_and_removals(facts):
    found = _plan(facts, "interventions")
    rows = 2 * (30 + 3 * 50 + 3 * 20) * 2
    assert (found.rows, found.tokens) == (rows, rows * 20)
    # Fourteen runs, each started anew, by two workers.
    assert found.seconds == pytest.approx(6.0 + rows * 20 / (2 * 50.0))
    assert (found.memory, found.together) == (10**9, 2)


def test_without_removals_there_are_fewer_runs(facts):
    study = _study(interventions={**MIXTURE["interventions"], "removals": False})
    assert _plan(facts, "interventions", study=study).rows == 2 * (30 + 3 * 50) * 2


def test_gradients_are_taken_of_the_rows_evaluated_on(facts):
    found = _plan(facts, "gradients")
    assert (found.rows, found.tokens) == (3 * 3 * 10, 3 * 3 * 10 * 20)
    assert found.seconds == pytest.approx(7.0 + 1800 / (4 * 200.0))


def test_regression_trains_on_half_of_the_additions(facts):
    assert _plan(facts, "regression").rows == 4 * (10 + 0.5 * 3 * 20) * 2


def test_training_of_its_own_and_evaluation_count(facts):
    study = _study(training={"epochs": 5})
    paces = {**PACES, "evaluate": Throughput(8.0, 400.0, memory=10**9)}
    found = _plan(replace(facts, paces=paces), "regression", study=study)
    assert found.rows == 4 * 40 * 5
    assert found.seconds == pytest.approx(6.0 + 4 * 40 * 5 * 20 / 100 + 8.0 + 4 * 3 * 10 * 20 / 400)


def test_estimators_add_up(facts):
    both = _plan(facts, "gradients", "interventions")
    apart = [_plan(facts, name) for name in ("gradients", "interventions")]
    assert both.rows == sum(found.rows for found in apart)
    assert both.seconds == pytest.approx(sum(found.seconds for found in apart))


def test_adapters_of_all_runs_lie_on_the_disk_until_they_are_evaluated(facts):
    few, many = (
        _plan(replace(facts, checkpoint_bytes=size), "interventions", "regression").disk for size in (0, 10**6)
    )
    # Every epoch leaves a checkpoint; of the two estimators the one with more runs counts.
    assert many - few == 14 * 2 * 10**6


def test_memory_that_ran_out_leaves_no_time(facts):
    paces = {**PACES, "interaction": replace(PACES["interaction"], speed=None)}
    found = _plan(replace(facts, paces=paces), "interventions")
    assert found.seconds is None and found.exhausted


def test_time_of_an_endpoint_is_not_known(facts):
    endpoint = {"by": "endpoint", "url": "http://localhost/v1", "model": "m"}
    assert plan_tag(_study(categories=endpoint), facts).seconds is None
    assert plan_tag(_study(), facts).seconds == 0.0
