"""Three Ray nodes on one machine, each with processes of its own, and studies that are submitted to them as jobs."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 600
# Any free port: the usual one may belong to another Ray of this machine, and the head would not start jobs.
AGENT = {"dashboard_agent_listen_port": 0}
WORKER = {"num_cpus": 2, **AGENT}


class Nodes:
    """A head without CPUs for work and two nodes with two each; jobs go to its job server, a token is asked for."""

    def __init__(self, environment: dict[str, str]) -> None:
        from ray.cluster_utils import Cluster

        port = _free_port()
        self.address, self.environment = f"http://127.0.0.1:{port}", environment
        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args={**head, **AGENT})
        self.workers = [self.cluster.add_node(**WORKER) for _ in range(2)]
        wait_for(self._takes_jobs, "the job server")

    def _takes_jobs(self) -> bool:
        """Whether the head's agent, which starts jobs, has come up; the job server answers some time before."""
        from ray.job_submission import JobSubmissionClient

        try:
            JobSubmissionClient(self.address).submit_job(entrypoint="true")
        except (RuntimeError, ConnectionError):
            return False
        return True

    def submit(self, study: Path, *settings: str) -> str:
        """Submit a study as the README says; the job's id."""
        command = ["ray", "job", "submit", "--address", self.address, "--working-dir", str(ROOT), "--no-wait"]
        words = [word for setting in settings for word in ("--set", setting)]
        job = f"job-{time.time_ns()}"
        command += ["--submission-id", job, "--", "python", "jobs/run.py", "--config", str(study), *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=WAIT_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
        return job

    def ended(self, job: str) -> str:
        """Wait for a job's end; how it ended."""
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(self.address)
        wait_for(lambda: client.get_job_status(job).is_terminal(), "the job's end")
        return str(client.get_job_status(job).value)

    def log(self, job: str) -> str:
        """What a job printed, and what Ray says of its end."""
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(self.address)
        return f"{client.get_job_logs(job)}\n{client.get_job_info(job).message}"

    def processes(self, name: str) -> list[psutil.Process]:
        """Processes of all nodes whose command begins so."""
        found = []
        for node in [self.cluster.head_node, *self.workers]:
            for process in psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if " ".join(process.cmdline()).startswith(name):
                        found.append(process)
        return found

    def kill(self, name: str) -> None:
        """Kill the first process whose command begins so, once there is one."""
        wait_for(lambda: self.processes(name), name)
        self.processes(name)[0].send_signal(signal.SIGKILL)

    def lose_one_and_add_another(self) -> None:
        """End a working node as if its machine had been taken away; a new one joins."""
        self.cluster.remove_node(self.workers.pop(0), allow_graceful=False)
        self.workers.append(self.cluster.add_node(**WORKER))


@contextmanager
def three_nodes(home: Path) -> Iterator[Nodes]:
    """The cluster, for as long as the block runs; its environment is this process' own in the block."""
    ours = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
        "RAY_TMPDIR": str(home),
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    nodes = Nodes(dict(os.environ))
    try:
        yield nodes
    finally:
        nodes.cluster.shutdown()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
