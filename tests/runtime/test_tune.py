import pytest

from instsel.errors import StudyError
from instsel.runtime.tune import plan_trial_resources
from instsel.study.resources import ResourcePlan


@pytest.fixture
def cluster(monkeypatch):
    import ray

    def make(**resources):
        monkeypatch.setattr(ray, "cluster_resources", lambda: resources)

    return make


def _plan(workers, gpus):
    return ResourcePlan(1, gpus, 1, 1, workers, gpus, 0.5, 1)


def test_on_gpus_a_run_has_one_and_as_many_run_as_there_are(cluster):
    cluster(GPU=8.0, CPU=32.0)
    each, at_once = plan_trial_resources(_plan(8, 1), None)
    assert (each.workers, at_once) == (1, 8)
    each, at_once = plan_trial_resources(_plan(8, 1), 4)
    assert (each.workers, at_once) == (4, 2)


def test_without_gpus_half_of_the_cpus_feed_the_runs(cluster):
    cluster(CPU=2.0)
    each, at_once = plan_trial_resources(_plan(2, 0), None)
    assert (each.workers, at_once) == (1, 2)
    each, at_once = plan_trial_resources(_plan(2, 0), 2)
    assert (each.workers, at_once) == (2, 1)


def test_more_workers_than_there_is_room_for_are_rejected(cluster):
    cluster(GPU=2.0, CPU=8.0)
    with pytest.raises(StudyError, match="trial_workers is 3, but the cluster has room for 2"):
        plan_trial_resources(_plan(2, 1), 3)
