import pytest

from instsel.errors import StudyError
from instsel.runtime.tune import plan_trial_resources
from instsel.study.resources import Node, ResourcePlan


def _plan(workers, gpus, cpus, *nodes):
    return ResourcePlan(1, gpus, cpus, 1, workers, gpus, 0.5, 1, nodes=nodes)


def test_on_gpus_a_run_has_one_and_as_many_run_as_there_are():
    plan = _plan(8, 1, 1, Node(32, 8))
    each, at_once = plan_trial_resources(plan, None)
    assert (each.workers, at_once) == (1, 8)
    each, at_once = plan_trial_resources(plan, 4)
    assert (each.workers, at_once) == (4, 2)


def test_without_gpus_half_of_the_cpus_feed_the_runs():
    plan = _plan(2, 0, 0.5, Node(2))
    each, at_once = plan_trial_resources(plan, None)
    assert (each.workers, at_once) == (1, 2)
    each, at_once = plan_trial_resources(plan, 2)
    assert (each.workers, at_once) == (2, 1)


def test_more_workers_than_there_is_room_for_are_rejected():
    with pytest.raises(StudyError, match="trial_workers is 3, but the cluster has room for 2"):
        plan_trial_resources(_plan(2, 1, 1, Node(8, 2)), 3)
