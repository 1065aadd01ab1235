"""A cluster that grows to what a study asks for."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from ray.autoscaler import sdk

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
        monkeypatch.setattr(autoscaling, "request_resources", lambda bundles: asked.append(bundles))
        monkeypatch.setattr(autoscaling, "POLL_SECONDS", 0.001)
        return asked

    return make


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


def test_ray_is_asked_by_the_name_that_it_has() -> None:
    assert "bundles" in inspect.signature(sdk.request_resources).parameters


@pytest.mark.long
def test_a_driver_that_gets_sigterm_releases_them() -> None:
    # Python's own answer to SIGTERM, which `ray job stop` sends, would run no `finally`; Ray's does.
    code = """
import os, ray, signal, time
from instsel.runtime import autoscaling
from instsel.config.study import Resources
from instsel.console import Terminal
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
autoscaling.request_resources = lambda bundles: print("asked", bundles, flush=True)
with autoscaling.requested_capacity(Resources(cpus=1), Terminal()):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "asked []" in done.stdout, done.stderr
    assert done.returncode != 0
