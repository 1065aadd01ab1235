"""A cluster that grows to what a study asks for."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from ray.autoscaler._private.resource_demand_scheduler import _fits
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import _bundle_can_fit_on_node

from instsel.config.study import Resources
from instsel.console import Terminal
from instsel.errors import StudyError
from instsel.runtime import autoscaling

Growing = Callable[..., list[Any]]


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> Growing:
    """Let the cluster have these sizes, one size a look, then the last; the list has what was requested."""

    def make(*sizes: dict[str, float]) -> list[Any]:
        left, asked = list(sizes), []
        monkeypatch.setattr(autoscaling, "cluster_resources", lambda: left.pop(0) if len(left) > 1 else left[0])
        monkeypatch.setattr(autoscaling, "send_request", lambda _, bundles: asked.append(list(map(counted, bundles))))
        monkeypatch.setattr(autoscaling, "cancel_request", lambda _: asked.append([]))
        monkeypatch.setattr(autoscaling, "POLL_SECONDS", 0.001)
        return asked

    return make


def counted(bundle: dict[str, float]) -> dict[str, float]:
    """What a bundle asks for, without what keeps Ray Data from reserving it."""
    return {name: count for name, count in bundle.items() if name not in autoscaling.NOT_RESERVED}


def hold(**resources: Any) -> None:
    with autoscaling.requested_capacity(Resources(**resources), Terminal()):
        pass


def test_machines_are_asked_for_waited_for_and_let_go(growing: Growing, capsys: pytest.CaptureFixture[str]) -> None:
    asked = growing({"CPU": 4.0}, {"CPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 12.0, "GPU": 2.0})
    with autoscaling.requested_capacity(Resources(gpus=2), Terminal()):
        assert asked == [[{"GPU": 1}, {"GPU": 1}]]
    assert asked[1:] == [[]]
    assert capsys.readouterr().out.split("\n") == [
        "  waiting for machines: 0 of 2 GPUs",
        "  waiting for machines: 1 of 2 GPUs",
        "",
    ]


def test_they_are_let_go_when_the_study_fails(growing: Growing) -> None:
    asked = growing({"CPU": 4.0})
    with pytest.raises(KeyError), autoscaling.requested_capacity(Resources(cpus=3), Terminal()):
        raise KeyError
    assert asked == [[{"CPU": 1}] * 3, []]


def test_who_asks_for_nothing_does_not_wait(growing: Growing) -> None:
    asked = growing({})
    hold()
    assert asked == []


def test_after_the_time_it_goes_on_with_what_has_come(growing: Growing, capsys: pytest.CaptureFixture[str]) -> None:
    asked = growing({"GPU": 1.0})
    hold(gpus=4, wait_minutes=0.0)
    assert asked[-1] == []
    assert "going on with 1 of 4 GPUs, after 0 minutes" in capsys.readouterr().out


@pytest.mark.parametrize("size", [{}, {"CPU": 8.0}, {"GPU": 4.0}])
def test_where_none_came_it_fails_and_lets_go(size: dict[str, float], growing: Growing) -> None:
    asked = growing(size)
    with pytest.raises(StudyError, match=r"resources: after 0 minutes the cluster has . of 4 GPUs, . of 1 CPUs"):
        hold(gpus=4, cpus=1, wait_minutes=0.0)
    assert asked[-1] == []


def test_a_type_of_gpu_is_asked_for_by_the_resource_that_its_machines_have(growing: Growing) -> None:
    asked = growing({"GPU": 1.0})
    hold(gpus=1, accelerator="A100")
    assert asked[0] == [{"GPU": 1, "accelerator_type:A100": 0.001}]


def test_machines_are_started_for_a_bundle_that_ray_data_does_not_reserve() -> None:
    bundle, machine = {"GPU": 1, **autoscaling.NOT_RESERVED}, {"CPU": 8.0, "GPU": 1.0}
    assert _fits(machine, bundle)
    assert not _bundle_can_fit_on_node(bundle, machine)


SMALL_RAY = """
import json, sys, threading, time
import ray
from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL as CHANNEL
from ray.experimental.internal_kv import _internal_kv_get
from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinator
from instsel.config.study import Resources
from instsel.console import Terminal
from instsel.runtime import autoscaling

# Every second and not every 20, so that a request that is overwritten is gone soon.
coordinator._AutoscalingCoordinatorActor.TICK_INTERVAL_S = 1
ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)

def requested():
    # GPUs and CPUs of the bundles that the autoscaler reads.
    bundles = json.loads(_internal_kv_get(CHANNEL) or b"[]")
    return [sum(bundle.get(name, 0) for bundle in bundles) for name in ("GPU", "CPU")]

def stage():
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.range(4, override_num_blocks=4).map_batches(lambda batch: time.sleep(0.5) or batch, batch_size=1)
    return len(rows.take_all())

def hold(**resources):
    return autoscaling.requested_capacity(Resources(**resources), Terminal())
"""


def in_small_ray(code: str) -> list[str]:
    """Run code with a Ray of its own; return the lines that it prints after `=`."""
    done = subprocess.run([sys.executable, "-c", SMALL_RAY + code], capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    return [line[1:] for line in done.stdout.splitlines() if line.startswith("=")]


@pytest.mark.process
@pytest.mark.long
@pytest.mark.guard
def test_fault_02_what_is_requested_stays_requested_through_a_stage_of_ray_data() -> None:
    seen = in_small_ray("""
with hold(gpus=2):
    print("=", requested())
    print("=", stage())
    time.sleep(3)
    print("=", requested())
print("=", requested())
""")
    assert seen == [" [2, 0]", " 4", " [2, 0]", " [0, 0]"]


@pytest.mark.process
@pytest.mark.long
@pytest.mark.guard
def test_fault_02_two_studies_do_not_cancel_each_others_request() -> None:
    seen = in_small_ray("""
with hold(gpus=2):
    with hold(gpus=1, cpus=2):
        stage()
        print("=", requested())
    time.sleep(2)
    print("=", requested())
""")
    assert seen == [" [3, 2]", " [2, 0]"]


@pytest.mark.long
def test_a_driver_that_gets_sigterm_releases_them() -> None:
    # Python's own answer to SIGTERM, which `ray job stop` sends, would run no `finally`; Ray's does.
    code = """
import os, ray, signal, time
from instsel.runtime import autoscaling
from instsel.config.study import Resources
from instsel.console import Terminal
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
autoscaling.send_request = lambda requester, bundles: None
autoscaling.cancel_request = lambda requester: print("asked", [], flush=True)
with autoscaling.requested_capacity(Resources(cpus=1), Terminal()):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "asked []" in done.stdout, done.stderr
    assert done.returncode != 0
