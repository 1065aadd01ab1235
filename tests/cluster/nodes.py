"""Three Ray nodes on one machine, each with processes of its own, and studies that are submitted to them as jobs."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 600
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class Nodes:
    """A head without CPUs for work and two nodes with two each; jobs go to its job server, which asks for a token."""

    def __init__(self, home: Path, more: dict[str, str]) -> None:
        """Start them; `more` is added to the environment of all their processes."""
        self.home, self.token = home, secrets.token_hex(16)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = {
            **kept,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_memory_usage_threshold": "0.99",
            "RAY_USAGE_STATS_ENABLED": "0",
            **more,
        }
        port, dashboard = free_ports(2)
        self.ray, self.server = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
        head = ["--head", f"--port={port}", "--include-dashboard=true", f"--dashboard-port={dashboard}"]
        self.head = self._start("head", *head, "--num-cpus=0")
        wait_for(self._answers, "the head")
        self.workers: list[subprocess.Popen] = []
        self._names = iter(range(100))
        for _ in range(2):
            self.add()
        wait_for(self._takes_jobs, "the job server")

    def add(self) -> None:
        """Another node with two CPUs."""
        name = f"worker-{next(self._names)}"
        self.workers.append(self._start(name, f"--address={self.ray}", "--num-cpus=2"))

    def lose(self, process: psutil.Process) -> None:
        """End every process of the working node that has this one at once, as if its machine had been taken away."""
        above = {parent.pid for parent in process.parents()}
        (node,) = [node for node in self.workers if node.pid in above]
        self.workers.remove(node)
        _end(node)

    def stop(self) -> None:
        """End every process of all nodes."""
        for node in [*self.workers, self.head]:
            _end(node)

    def submit(self, study: Path, *settings: str) -> str:
        """Submit a study as the README says; the job's id."""
        command = ["ray", "job", "submit", "--address", self.server, "--working-dir", str(ROOT), "--no-wait"]
        words = [word for setting in settings for word in ("--set", setting)]
        job = f"job-{time.time_ns()}"
        command += ["--submission-id", job, "--", "python", "jobs/run.py", "--config", str(study), *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=WAIT_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
        return job

    def ended(self, job: str) -> str:
        """Wait for a job's end; how it ended."""
        wait_for(lambda: self._told(job).get("status") in ENDED, "the job's end")
        return self._told(job)["status"]

    def log(self, job: str) -> str:
        """What a job printed, and what Ray says of its end."""
        return f"{(self._asked(f'/api/jobs/{job}/logs') or {}).get('logs')}\n{self._told(job).get('message')}"

    def kill(self, name: str) -> None:
        """Kill a process whose command begins so, once there is one."""
        wait_for(lambda: self.processes(name), name)
        self.processes(name)[0].send_signal(signal.SIGKILL)

    def halt(self, name: str, busy: Callable[[], bool]) -> psutil.Process:
        """Stop a process whose command begins so at a moment when it is `busy`, where it stays until it is killed."""
        halted: list[psutil.Process] = []

        def look() -> bool:
            for process in self.processes(name):
                process.suspend()
                if busy():
                    halted.append(process)
                    return True
                process.resume()
            return False

        wait_for(look, f"{name} at work")
        return halted[0]

    def _start(self, name: str, *options: str) -> subprocess.Popen:
        # Any free port for the agent: the usual one may belong to another Ray of this machine. A folder of its own:
        # nodes take away a job's working directory, each when it needs it no longer.
        command = ["ray", "start", "--block", "--dashboard-agent-listen-port=0", f"--temp-dir={self.home}/{name}"]
        with open(self.home / f"{name}.log", "w") as log:
            return subprocess.Popen(
                [*command, *options], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def processes(self, name: str) -> list[psutil.Process]:
        """Those whose command begins so."""
        found = []
        for node in [self.head, *self.workers]:
            for process in psutil.Process(node.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if " ".join(process.cmdline()).startswith(name):
                        found.append(process)
        return found

    def _told(self, job: str) -> dict[str, Any]:
        return self._asked(f"/api/jobs/{job}") or {}

    def _asked(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """What the job server answers; None where it does not."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.server + path, data, headers), timeout=60) as found:
                answer: dict[str, Any] = json.load(found)
                return answer
        except OSError:
            return None

    def _answers(self) -> bool:
        assert self.head.poll() is None, (self.home / "head.log").read_text()
        return self._asked("/api/version") is not None

    def _takes_jobs(self) -> bool:
        """Whether the head's agent, which starts jobs, has come up; the job server answers some time before."""
        return self._asked("/api/jobs/", {"entrypoint": "true"}) is not None


@contextmanager
def three_nodes(home: Path, **more: str) -> Iterator[Nodes]:
    """The nodes, for as long as the block runs; `more` is added to their environment."""
    nodes = Nodes(home, more)
    try:
        yield nodes
    finally:
        nodes.stop()


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)


def _end(node: subprocess.Popen) -> None:
    processes = psutil.Process(node.pid).children(recursive=True)
    for process in [psutil.Process(node.pid), *processes]:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    node.wait()
