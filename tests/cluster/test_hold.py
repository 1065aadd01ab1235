"""hold.py against a Ray that is two small files: asks, waits, runs, lets go."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

RAY = """
import json, os
def _state():
    return json.load(open(os.environ["STATE"]))
def init(address=None, log_to_driver=True):
    assert address == "auto"
def cluster_resources():
    state = _state()
    return {"GPU": float(state["gpus"])} if state["gpus"] else {}
def nodes():
    return [{"Alive": alive} for alive in _state()["nodes"]]
"""
SDK = """
import json, os
def request_resources(num_cpus=None, bundles=None):
    with open(os.environ["ASKED"], "a") as asked:
        asked.write(json.dumps(bundles) + "\\n")
"""
RUN = "import hold, sys; hold.POLL_SECONDS = 0.02; sys.exit(hold.main())"


@pytest.fixture
def hold(tmp_path: Path, cluster: Path, environment: dict[str, str]) -> Callable[..., subprocess.Popen]:
    package = tmp_path / "stub" / "ray"
    (package / "autoscaler").mkdir(parents=True)
    (package / "__init__.py").write_text(RAY)
    (package / "autoscaler" / "__init__.py").touch()
    (package / "autoscaler" / "sdk.py").write_text(SDK)
    environment |= {"PYTHONPATH": f"{package.parent}:{(cluster / 'hold.py').parent}", "STATE": str(tmp_path / "state")}
    environment["ASKED"] = str(tmp_path / "asked")

    def start(*arguments: str, gpus: int = 0, nodes: tuple[bool, ...] = (True,)) -> subprocess.Popen:
        set_state(environment, gpus, nodes)
        command = [sys.executable, "-c", RUN, *arguments]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    return start


def set_state(environment: dict[str, str], gpus: int, nodes: tuple[bool, ...] = (True,)) -> None:
    path = Path(environment["STATE"])
    path.with_suffix(".new").write_text(json.dumps({"gpus": gpus, "nodes": nodes}))
    os.replace(path.with_suffix(".new"), path)


def asked(environment: dict[str, str]) -> list[list[dict]]:
    path = Path(environment["ASKED"])
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_gpus_are_asked_for_waited_for_and_let_go_after_the_command(hold, environment, tmp_path) -> None:
    ran = tmp_path / "ran"
    process = hold("--gpus", "2", "--", "cp", environment["ASKED"], str(ran))
    wait_for(lambda: len(asked(environment)) == 1)
    assert asked(environment) == [[{"GPU": 1}, {"GPU": 1}]]
    assert process.poll() is None and not ran.exists()
    set_state(environment, gpus=2)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert ran.read_text() == '[{"GPU": 1}, {"GPU": 1}]\n'
    assert asked(environment)[1:] == [[]]
    assert errors.splitlines() == ["hold.py: 0 of 2 GPUs", "hold.py: 2 of 2 GPUs"]


def test_the_commands_own_options_and_exit_status_are_kept(hold) -> None:
    process = hold(
        "--gpus", "1", "--", sys.executable, "-c", "import sys; sys.exit(len(sys.argv))", "--gpus", "7", gpus=1
    )
    process.communicate(timeout=30)
    assert process.returncode == 3


def test_a_cluster_that_does_not_come_fails_and_lets_go_without_running(hold, environment, tmp_path) -> None:
    process = hold("--gpus", "4", "--timeout", "0.001", "--", "touch", str(tmp_path / "ran"), gpus=3)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "gave up after 0.001 minutes: 3 of 4 GPUs" in errors
    assert not (tmp_path / "ran").exists()
    assert asked(environment)[-1] == []


def test_a_stopped_job_ends_its_command_and_lets_go(hold, environment, tmp_path) -> None:
    pid = tmp_path / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    process = hold("--gpus", "1", "--", sys.executable, "-c", code, gpus=1)
    wait_for(lambda: pid.exists() and pid.read_text() != "")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert asked(environment)[-1] == []


def test_nodes_are_waited_for_without_asking_and_dead_ones_do_not_count(hold, environment) -> None:
    process = hold("--nodes", "2", nodes=(True, False))
    time.sleep(0.3)
    assert process.poll() is None
    set_state(environment, 0, (True, False, True))
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert asked(environment) == []


def test_zero_gpus_without_a_command_lets_go_of_what_an_earlier_one_held(hold, environment) -> None:
    process = hold("--gpus", "0")
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert asked(environment) == [[], []]


def test_no_size_is_an_error_of_use(hold) -> None:
    process = hold("--", "true")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "--gpus or --nodes" in errors


def test_the_real_ray_is_asked_as_the_stub_is() -> None:
    from ray.autoscaler.sdk import request_resources

    inspect.signature(request_resources).bind(bundles=[{"GPU": 1}])
