"""How actors and workers divide a cluster, and how a Ray session starts and ends."""

import subprocess
import sys
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsel.config.study import Resources
from instsel.errors import InputError, StudyError
from instsel.runtime import session
from instsel.runtime.session import plan_resources
from instsel.study.resources import ResourcePlan


def plan_on(cpus: int, gpus: int = 0, nodes: int = 1, /, **resources: Any) -> ResourcePlan:
    """Plan for a cluster of this size, on so many nodes alike."""
    with (
        mock.patch.object(session, "cluster_nodes", lambda: _nodes(cpus / nodes, gpus / nodes, nodes)),
        mock.patch.object(session, "available_resources", dict),
    ):
        return plan_resources(Resources(**resources))


def _nodes(cpus: float, gpus: float, working: int) -> list[dict[str, Any]]:
    """A head without CPUs, nodes that work, and one that is gone."""
    return [
        {"NodeID": "head", "Alive": True, "Resources": {"memory": 1.0}},
        *[
            {"NodeID": str(node), "Alive": True, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}
            for node in range(working)
        ],
        {"NodeID": "gone", "Alive": False, "Resources": {"CPU": 4.0}},
    ]


@given(st.integers(1, 64), st.integers(1, 4))
def test_without_gpus_half_of_the_cpus_stay_free_for_reading(cpus: int, nodes: int) -> None:
    plan = plan_on(cpus, 0, nodes)
    assert plan.actors * plan.cpus <= cpus / 2 + 1e-9
    assert plan.workers * plan.worker_cpus <= cpus / 2 + 1e-9
    assert (plan.gpus, plan.worker_gpus) == (0, 0)
    assert plan.actors >= nodes
    assert 1 <= plan.threads <= max(1, cpus // plan.actors)
    assert 1 <= plan.worker_threads <= max(1, cpus // plan.workers)


@given(st.integers(1, 8), st.integers(2, 16), st.integers(1, 2))
def test_gpus_are_divided_whole(gpus: int, cpus_per_gpu: int, nodes: int) -> None:
    plan = plan_on(nodes * gpus * cpus_per_gpu, nodes * gpus, nodes)
    assert (plan.actors, plan.gpus, plan.workers, plan.worker_gpus) == (nodes * gpus, 1, nodes * gpus, 1)
    assert plan.threads == plan.worker_threads == max(1, cpus_per_gpu - 1)


@pytest.mark.parametrize(("per_actor", "actors"), [(0.5, 8), (0.3, 12), (2, 2)])
def test_actors_hold_as_much_of_a_gpu_as_is_configured(per_actor: float, actors: int) -> None:
    plan = plan_on(32, 4, 2, gpus_per_actor=float(per_actor))
    assert (plan.actors, plan.gpus) == (actors, per_actor)


def test_what_the_study_asks_for_is_what_it_gets() -> None:
    plan = plan_on(16, actors=3, training_workers=5, threads_per_actor=7)
    assert (plan.actors, plan.workers, plan.threads) == (3, 5, 7)
    plan = plan_on(16, 4, actors=3, training_workers=2, threads_per_actor=7)
    assert (plan.actors, plan.workers, plan.threads) == (3, 2, 7)


def test_actors_for_gpus_that_were_asked_for_and_have_not_come_start_later() -> None:
    plan = plan_on(16, 2, gpus=4, gpus_per_actor=0.5)
    assert (plan.actors, plan.actors_to_come, plan.workers, plan.threads) == (4, 4, 2, 3)
    assert plan_on(16, 2, gpus=4, actors=1).actors_to_come == 0


@pytest.mark.parametrize(
    ("gpus", "asked", "what"),
    [
        (2, {"actors": 3}, "resources: 3 actors of 1.0 GPU and 2 workers, but 2 GPUs"),
        (2, {"training_workers": 3}, "resources: 2 actors of 1.0 GPU and 3 workers, but 2 GPUs"),
        (0, {"gpus_per_actor": 0.5}, "resources.gpus_per_actor is 0.5, but the cluster has no GPU"),
    ],
)
def test_more_than_the_cluster_has_is_rejected(gpus: int, asked: dict[str, Any], what: str) -> None:
    with pytest.raises(StudyError, match=what):
        plan_on(8, gpus, **asked)


def test_a_running_session_is_used_and_left_running(ray_session: None) -> None:
    with session.ray_session(Resources()):
        assert session.ray.is_initialized()
    assert session.ray.is_initialized()


def test_a_cluster_that_does_not_answer_is_named_by_its_key() -> None:
    with (
        mock.patch.object(session.ray, "is_initialized", lambda: False),
        mock.patch.object(session.ray, "init", mock.Mock(side_effect=ConnectionError("no answer"))),
        pytest.raises(InputError, match=r"resources\.ray_address: no Ray cluster answers there \(no answer\)"),
        session.ray_session(Resources(ray_address="host:1")),
    ):
        pass


WARNING = """
import logging, os, sys, time
import ray
from instsel.config.study import Resources
from instsel.console import log
from instsel.runtime.session import ray_session

log.addHandler(logging.StreamHandler(sys.stderr))
log.setLevel("DEBUG")
with ray_session(Resources()):

    @ray.remote(num_cpus=0)
    class Dies:
        def die(self):
            os._exit(1)

    dies = Dies.remote()
    try:
        ray.get(dies.die.remote())
    except ray.exceptions.ActorDiedError:
        pass
    # Ray says so after a moment, from a thread of its own.
    time.sleep(10)
"""


@pytest.mark.process
def test_warnings_of_rays_own_processes_go_to_the_log_and_not_to_the_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", WARNING], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "ray: A worker died or was killed" in done.stderr
