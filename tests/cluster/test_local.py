"""local.sh with a `ray` that only stays until it is told to go."""

import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ports import free_ports

RAY = """
import socket
what = sys.argv[1]
if what == "start":
    drain = os.environ["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]
    note(pid=os.getpid(), mode=os.environ.get("RAY_AUTH_MODE"), drain=drain)
    if os.environ.get("BROKEN"):
        sys.exit("the port is taken")
    if os.environ.get("DEAF"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not os.environ.get("BLIND"):
        port = next(int(word.split("=")[1]) for word in sys.argv if word.startswith("--dashboard-port="))
        server = socket.create_server(("127.0.0.1", port))
    time.sleep(60)
elif what == "status":
    note()
    words = [call["arguments"] for call in noted()]
    there = any("--port=" + sys.argv[2].rpartition(":")[2] in call for call in words)
    asked = sum(call[0] == "status" for call in words)
    sys.exit(0 if there and asked >= int(os.environ.get("ANSWERS_AFTER", 1)) else 1)
elif what == "get-auth-token":
    note()
    os.makedirs(os.environ["HOME"] + "/.ray", exist_ok=True)
    with open(os.environ["HOME"] + "/.ray/auth_token", "w") as token:
        token.write("secret")
    print("secret")
"""


@pytest.fixture
def local(
    cluster: Path, environment: dict[str, str], fake: Callable[[str, str], None], tmp_path: Path
) -> Iterator[Callable[..., subprocess.CompletedProcess]]:
    """Run local.sh; what it started is ended with the test."""
    fake("ray", RAY)
    environment |= {"INSTSEL_RAY_DIR": str(tmp_path / "ray"), "INSTSEL_RAY_TIMEOUT": "20"}
    environment |= ports()

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess:
        command = [cluster / "local.sh", *arguments]
        return subprocess.run(command, env=environment | more, capture_output=True, text=True, timeout=60)

    yield run
    for folder in tmp_path.glob("*/pid"):
        if alive(int(folder.read_text())):
            os.kill(int(folder.read_text()), signal.SIGKILL)


def ports() -> dict[str, str]:
    port, dashboard = free_ports(2)
    return {"INSTSEL_RAY_PORT": str(port), "INSTSEL_DASHBOARD_PORT": str(dashboard)}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_start_gives_ray_its_own_folder_a_dashboard_for_this_machine_and_the_options(
    local, calls, ray_start, tmp_path
) -> None:
    asked = ports()
    port, dashboard = map(int, asked.values())
    done = local("start", "--num-gpus=2", "--num-cpus", "8", **asked)
    assert done.returncode == 0, done.stderr
    (call,) = calls("start")
    options = ray_start(call["arguments"][1:])
    assert options["head"] and options["block"]
    assert options["temp_dir"] == str(tmp_path / "ray")
    assert options["include_dashboard"] is True
    assert (options["port"], options["dashboard_port"]) == (port, dashboard)
    assert options["dashboard_host"] == "127.0.0.1"
    assert (options["num_gpus"], options["num_cpus"]) == (2, 8)
    assert calls("status")[-1]["arguments"] == ["status", f"--address=127.0.0.1:{port}"]
    assert f"RAY_API_SERVER_ADDRESS=http://127.0.0.1:{dashboard}" in done.stdout


def test_start_makes_a_token_that_nobody_else_reads_and_keeps_it(local, calls, environment) -> None:
    assert "secret" not in local("start").stdout
    token = Path(environment["HOME"], ".ray/auth_token")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert calls("start")[0]["mode"] == "token"
    local("stop")
    local("start")
    assert len(calls("get-auth-token")) == 1


def test_start_takes_a_token_of_the_environment(local, calls) -> None:
    assert local("start", RAY_AUTH_TOKEN="given").returncode == 0
    assert calls("get-auth-token") == []


def test_start_waits_until_ray_answers(local, calls) -> None:
    assert local("start", ANSWERS_AFTER="3").returncode == 0
    assert len(calls("status")) == 3


def test_start_twice_is_refused(local, calls) -> None:
    local("start")
    done = local("start")
    assert (done.returncode, len(calls("start"))) == (1, 1)
    assert "runs already" in done.stderr


@pytest.mark.parametrize("name", ["INSTSEL_RAY_PORT", "INSTSEL_DASHBOARD_PORT"])
def test_a_taken_port_is_refused_before_anything_starts(local, calls, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = local("start", **{name: str(other.getsockname()[1])})
    assert done.returncode == 1
    assert f"taken; set {name}" in done.stderr
    assert calls() == []


def test_a_ray_that_does_not_start_is_told_with_its_last_words(local) -> None:
    done = local("start", BROKEN="1", ANSWERS_AFTER="9")
    assert done.returncode == 1
    assert "the port is taken" in done.stderr


@pytest.mark.parametrize("fault", [{"ANSWERS_AFTER": "99"}, {"BLIND": "1"}])
def test_a_ray_or_dashboard_that_never_answers_is_ended(local, calls, fault: dict[str, str]) -> None:
    done = local("start", INSTSEL_RAY_TIMEOUT="1", **fault)
    assert done.returncode == 1
    assert "did not answer within 1 seconds" in done.stderr
    assert not alive(calls("start")[0]["pid"])


@pytest.mark.parametrize(
    "option", ["--port=1", "--temp-dir=/x", "--dashboard-host=0.0.0.0", "--address", "--block", "--include-dashboard=0"]
)
def test_options_that_the_script_gives_itself_are_refused(local, calls, option: str) -> None:
    assert local("start", option).returncode == 2
    assert calls() == []


def test_stop_ends_its_own_ray_and_no_other(local, calls, tmp_path) -> None:
    local("start")
    second = {"INSTSEL_RAY_DIR": str(tmp_path / "other"), **ports()}
    local("start", **second)
    mine, other = (call["pid"] for call in calls("start"))
    done = local("stop")
    assert done.returncode == 0
    assert not alive(mine)
    assert alive(other)
    assert local("status").returncode == 1
    assert local("status", **second).returncode == 0


def test_stop_spares_a_process_that_has_the_number_of_an_ended_ray(local, tmp_path) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/pid").write_text(str(bystander.pid))
    done = local("stop")
    assert done.returncode == 0 and "no Ray" in done.stdout
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_a_ray_that_does_not_go_is_killed(local, calls) -> None:
    local("start", DEAF="1")
    started = time.monotonic()
    local("stop", INSTSEL_RAY_TIMEOUT="1")
    assert 1 <= time.monotonic() - started < 60
    deadline = time.monotonic() + 10
    while alive(calls("start")[0]["pid"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(calls("start")[0]["pid"])


def test_nothing_waits_for_work_to_leave_the_only_machine(local, calls) -> None:
    local("start")
    assert calls("start")[0]["drain"] == "0"


@pytest.mark.parametrize("arguments", [[], ["restart"]])
def test_another_command_is_an_error_of_use(local, arguments: list[str]) -> None:
    done = local(*arguments)
    assert done.returncode == 2
    assert "usage" in done.stderr
