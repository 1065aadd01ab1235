"""slurm.sh with a Slurm, a Ray and a study that note how they were called."""

import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# A step that is the head listens, as Ray does; every Ray stays until it is told to go. The study waits for its nodes.
SRUN = """
import socket
arguments = sys.argv[1:]
if "ray" not in arguments:
    note()
    sys.exit(0)
if os.environ.get("BROKEN"):
    sys.exit(1)
ended = lambda *_: (note(ended=os.getpid()), sys.exit(0))
signal.signal(signal.SIGTERM, ended)
token = os.environ["RAY_AUTH_TOKEN_PATH"]
note(pid=os.getpid(), mode=os.environ["RAY_AUTH_MODE"], token=open(token).read(), rights=os.stat(token).st_mode)
if "--head" in arguments:
    port = next(int(word.split("=")[1]) for word in arguments if word.startswith("--port="))
    server = socket.create_server(("127.0.0.2", port))
time.sleep(60)
"""
STUDY = """
cpus = next(int(word.split("=")[1]) for word in sys.argv if word.startswith("resources.cpus="))
nodes, before = cpus // int(os.environ["SLURM_CPUS_PER_TASK"]), int(os.environ.get("BEFORE", 0))
while sum("token" in call for call in noted()) < before + nodes:
    time.sleep(0.02)
ended = lambda *_: (note(ended=os.getpid()), sys.exit(143))
signal.signal(signal.SIGTERM, ended)
note(address=os.environ["RAY_ADDRESS"], mode=os.environ["RAY_AUTH_MODE"])
if os.environ.get("LONG"):
    time.sleep(60)
sys.exit(int(os.environ.get("STATUS", 0)))
"""
SCONTROL = """
note()
if sys.argv[1] == "show":
    print(os.environ["SLURM_JOB_NODELIST"].replace(",", chr(10)))
"""


@pytest.fixture
def slurm(
    cluster: Path, environment: dict[str, str], fake: Callable[[str, str], None], tmp_path: Path
) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start slurm.sh as `sbatch` would, with a job number whose ports are free."""
    fake("srun", SRUN)
    fake("python", STUDY)
    fake("scontrol", SCONTROL)
    fake("hostname", "print('127.0.0.2 fd00::1')\n")
    environment |= {
        "SLURM_JOB_ID": str(free_job()),
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "n1,n2,n3",
    }
    started = []

    def start(*arguments: str, **more: str) -> subprocess.Popen:
        command = [cluster / "slurm.sh", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment | more, start_new_session=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def base(job: int) -> int:
    return 11000 + job % 50 * 400


def is_free(port: int) -> bool:
    for host in ("127.0.0.1", "127.0.0.2"):
        with socket.socket() as client:
            if client.connect_ex((host, port)) == 0:
                return False
    return True


def free_job() -> int:
    """A job number; tests that run beside each other get different ones."""
    first = 5000 + os.getpid() % 50
    return next(job for job in range(first, first + 50) if is_free(base(job)) and is_free(base(job) + 1))


def finish(process: subprocess.Popen) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rays(noted: list[dict], ray_start: Callable[[list[str]], dict]) -> list[dict]:
    """Options of every `ray start` that `srun` was given, with its node."""
    found = []
    for call in noted:
        words = call["arguments"]
        if "ended" not in call and "ray" in words:
            at = words.index("ray")
            options = dict(word.removeprefix("--").split("=") for word in words[:at] if "=" in word)
            found.append({**ray_start(words[at + 2 :]), "step": options})
    return found


def test_head_first_then_a_worker_on_every_other_node(slurm, calls, ray_start, environment) -> None:
    assert finish(slurm("study.yaml", "--set", "a=1")) == (0, "")
    head, *workers = rays(calls("srun"), ray_start)
    address = f"127.0.0.2:{base(int(environment['SLURM_JOB_ID']))}"
    assert (head["head"], head["step"]["nodelist"]) == (True, "n1")
    assert f"{head['node_ip_address']}:{head['port']}" == address
    assert head["dashboard_host"] == "127.0.0.1"
    assert sorted(worker["step"]["nodelist"] for worker in workers) == ["n2", "n3"]
    assert {worker["address"] for worker in workers} == {address}
    for ray in (head, *workers):
        assert ray["block"] and ray["num_cpus"] == 16 and ray["step"]["cpus-per-task"] == "16"
        assert ray["temp_dir"] == f"/tmp/ray-{environment['SLURM_JOB_ID']}"


def test_the_study_gets_what_it_was_given_and_waits_for_the_cpus_of_all_nodes(slurm, calls) -> None:
    finish(slurm("study.yaml", "--set", "a=1"))
    (study,) = calls("python")
    given = ["jobs/run.py", "--config", "study.yaml", "--set", "a=1"]
    assert study["arguments"] == [*given, "--set", "resources.cpus=48"]
    assert study["mode"] == "token"


def test_one_node_needs_no_worker(slurm, calls, ray_start) -> None:
    assert finish(slurm("study.yaml", SLURM_JOB_NODELIST="n1"))[0] == 0
    assert len(rays(calls("srun"), ray_start)) == 1


def ports(ray: dict) -> list[int]:
    names = ("port", "dashboard_port", "dashboard_agent_listen_port", "dashboard_agent_grpc_port")
    names += ("runtime_env_agent_port", "metrics_export_port", "ray_client_server_port", "node_manager_port")
    names += ("object_manager_port",)
    workers = range(ray["min_worker_port"], ray["max_worker_port"] + 1)
    return [*(ray[name] for name in names), *workers]


def test_two_jobs_on_a_node_share_no_port_and_leave_those_of_linux_alone(slurm, calls, ray_start, environment) -> None:
    first = int(environment["SLURM_JOB_ID"])
    finish(slurm("study.yaml"))
    finish(slurm("study.yaml", SLURM_JOB_ID=str(first + 1)))
    one, two = (ports(ray) for ray in rays(calls("srun"), ray_start) if ray["head"])
    assert len(set(one)) == len(one)
    assert not set(one) & set(two)
    assert min(one + two) > 1024 and max(base(49) + 399, *one, *two) < 32768


@pytest.mark.parametrize(("host", "offset"), [("127.0.0.2", 0), ("127.0.0.1", 1)])
def test_a_taken_port_moves_the_job_to_the_next_ports(
    slurm, calls, ray_start, environment, host: str, offset: int
) -> None:
    own = base(int(environment["SLURM_JOB_ID"]))
    with socket.create_server((host, own + offset)):
        assert finish(slurm("study.yaml"))[0] == 0
    assert rays(calls("srun"), ray_start)[0]["port"] == 11000 + (own - 11000 + 400) % 20000


def test_every_ray_has_the_token_of_this_job_which_only_this_user_reads(slurm, calls) -> None:
    finish(slurm("study.yaml"))
    finish(slurm("study.yaml", BEFORE="3"))
    starts = [call for call in calls("srun", "ray") if "token" in call]
    assert {call["mode"] for call in starts} == {"token"}
    assert {stat.S_IMODE(call["rights"]) for call in starts} == {0o600}
    tokens = [call["token"] for call in starts]
    assert len(tokens) == 6 and len(set(tokens)) == 2
    assert all(len(token) == 64 and int(token, 16) for token in tokens)


def test_the_job_ends_as_the_study_did_and_leaves_nothing(slurm, calls, tmp_path, environment) -> None:
    assert finish(slurm("study.yaml", STATUS="2"))[0] == 2
    started = {call["pid"] for call in calls("srun") if "pid" in call}
    assert {call["ended"] for call in calls("srun") if "ended" in call} == started
    scratch = f"/tmp/ray-{environment['SLURM_JOB_ID']}"
    assert calls("srun", "rm")[-1]["arguments"] == ["--overlap", "--ntasks-per-node=1", "rm", "-rf", scratch]
    assert list(tmp_path.glob(".ray-token-*")) == []
    assert calls("requeue") == []


def test_time_that_is_up_ends_the_study_and_puts_the_job_back_into_the_queue(slurm, calls, environment) -> None:
    process = slurm("study.yaml", LONG="1")
    wait_for(lambda: calls("python"))
    process.send_signal(signal.SIGUSR1)
    assert finish(process)[0] == 0
    assert [call["arguments"] for call in calls("requeue")] == [["requeue", environment["SLURM_JOB_ID"]]]
    order = [call["command"] for call in calls() if "ended" in call or "requeue" in call["arguments"]]
    assert order == ["python", "srun", "srun", "srun", "scontrol"]


def test_a_job_does_not_go_back_into_the_queue_for_ever(slurm, calls) -> None:
    process = slurm("study.yaml", LONG="1", SLURM_RESTART_COUNT="3", INSTSEL_MAX_RESTARTS="3")
    wait_for(lambda: calls("python"))
    process.send_signal(signal.SIGUSR1)
    status, errors = finish(process)
    assert (status, calls("requeue")) == (1, [])
    assert "submit the job again" in errors


def test_a_preempted_or_cancelled_job_cleans_up_and_leaves_the_queue_to_slurm(slurm, calls, tmp_path) -> None:
    process = slurm("study.yaml", LONG="1")
    wait_for(lambda: calls("python"))
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143
    assert len([call for call in calls() if "ended" in call]) == 4
    assert calls("requeue") == []
    assert list(tmp_path.glob(".ray-token-*")) == []


def test_a_head_that_does_not_start_ends_the_job_at_once(slurm, calls) -> None:
    status, errors = finish(slurm("study.yaml", BROKEN="1"))
    assert status == 1
    assert "Ray did not start on n1" in errors
    assert calls("python") == []


def test_no_study_is_an_error_of_use(slurm, calls) -> None:
    assert finish(slurm())[0] == 2
    assert calls() == []


def test_slurm_is_asked_to_requeue_to_warn_and_to_go_on_writing_one_log(cluster: Path) -> None:
    lines = (cluster / "slurm.sh").read_text().splitlines()
    # Slurm reads its lines up to the first command.
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    asked = {line.removeprefix("#SBATCH ") for line in lines[:first] if line.startswith("#SBATCH")}
    assert {"--requeue", "--open-mode=append", "--signal=B:USR1@180", "--ntasks-per-node=1"} <= asked
    assert not any(line.startswith("#SBATCH") for line in lines[first:])
