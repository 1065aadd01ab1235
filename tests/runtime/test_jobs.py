"""`instsel submit` with a job server that stands in for a cluster's: names, what is sent, the log, what is rejected."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ray.job_submission import JobStatus
from rich.console import Console

from instsel.config.file import load_study
from instsel.console import Terminal
from instsel.errors import InputError, StudyError
from instsel.runtime import jobs
from instsel.runtime.jobs import JobSpec

LOG = ["prepare\n", "warmup\n", "done\n"]


class Server:
    """Keeps jobs, and sends their logs; a connection to the log breaks `breaks` times."""

    def __init__(self):
        self.jobs, self.sent, self.files = {}, [], []
        self.breaks = 0
        self.ends_as = JobStatus.SUCCEEDED

    def list_jobs(self):
        return [SimpleNamespace(submission_id=name, status=status) for name, status in self.jobs.items()]

    def submit_job(self, **job):
        self.sent.append(job)
        folder = Path(job["runtime_env"]["working_dir"])
        self.files.append({path.name: path.read_text() for path in folder.rglob("*")})
        self.jobs[job["submission_id"]] = JobStatus.RUNNING

    async def tail_job_logs(self, job):
        for number, text in enumerate(LOG):
            if self.breaks and number == 2:
                self.breaks -= 1
                raise RuntimeError("WebSocket connection closed unexpectedly")
            yield text
        self.jobs[job] = self.ends_as

    def get_job_status(self, job):
        return self.jobs[job]

    def get_job_info(self, job):
        return SimpleNamespace(message="exit code 1, the driver's last words")


@pytest.fixture
def server(monkeypatch):
    stand_in = Server()
    monkeypatch.setattr(jobs, "_client", lambda address: stand_in)
    monkeypatch.setattr(jobs, "WAIT_SECONDS", 0)
    return stand_in


SCORED = {"t": {"validation": "/v.jsonl", "test": "test.jsonl", "scoring": "f1"}}


@pytest.fixture
def send(tmp_path, server):
    """Submit a study file; returns the job's id and what was printed."""
    keys = {
        "name": "tiny",
        "out": "s3://bucket/study",
        "root": str(tmp_path),
        "model": {"name": "m"},
        "pool": [{"path": "p.jsonl"}, {"path": "hf:owner/name"}],
        "targets": {"t": {"validation": "v.jsonl"}},
        "selection": {"budget": 0.1, "methods": ["random"]},
    }

    def call(changes=(), follow=True, **spec_fields):
        path = tmp_path / "my.yaml"
        path.write_text(yaml.safe_dump({**keys, **dict(changes)}))
        (tmp_path / "secret.txt").write_text("not to be sent")
        printed = io.StringIO()
        spec = JobSpec(str(path), **spec_fields)
        study = load_study(path, spec.overrides)
        return jobs.submit(study, spec, Terminal(Console(file=printed)), follow), printed.getvalue()

    return call


def test_only_the_study_file_is_sent_and_the_driver_takes_no_cpu(send, server):
    job, printed = send(overrides=["selection.budget=0.2"], until="features")
    (sent,) = server.sent
    assert sent["entrypoint"] == "instsel run study.yaml --until features --set selection.budget=0.2"
    assert sent["metadata"] == {"study": "tiny", "stage": "features", "out": "s3://bucket/study"}
    assert sent["entrypoint_num_cpus"] == 0 and "pip" not in sent["runtime_env"]
    (files,) = server.files
    assert list(files) == ["study.yaml"] and yaml.safe_load(files["study.yaml"])["name"] == "tiny"
    assert job in printed and printed.endswith("prepare\nwarmup\ndone\n")


def test_words_of_an_override_stay_one_argument(send, server):
    send(overrides=["selection.methods=[random, {method: bids}]"], command="search", until=None)
    assert (
        server.sent[0]["entrypoint"] == "instsel search study.yaml --set 'selection.methods=[random, {method: bids}]'"
    )


def test_same_study_under_way_is_come_back_to(send, server):
    job, _ = send(follow=False)
    again, printed = send()
    assert again == job and len(server.sent) == 1
    assert "coming back" in printed and printed.endswith("done\n")


def test_ended_job_is_submitted_again_under_the_next_number(send, server):
    first, _ = send()
    second, _ = send()
    assert (first[-2:], second[-2:]) == ("-1", "-2") and first[:-1] == second[:-1]
    other, _ = send({"selection": {"budget": 0.3, "methods": ["random"]}})
    assert other[:-1] != first[:-1]


def test_broken_connection_is_made_again_and_nothing_is_printed_twice(send, server):
    server.breaks = 2
    _, printed = send()
    assert printed.count("prepare\n") == 1 and printed.endswith("warmup\ndone\n")


def test_cluster_that_no_longer_answers_is_reported(send, server):
    server.breaks = 99
    with pytest.raises(StudyError, match="no longer answers.*may still run"):
        send()


def test_failed_job_fails_and_says_why(send, server):
    server.ends_as = JobStatus.FAILED
    with pytest.raises(StudyError, match="ended as failed: exit code 1, the driver's last words; submit it again"):
        send()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"out": "runs/study"}, "out: 'runs/study'"),
        ({"root": "data"}, "pool.0.path: 'data/p.jsonl'"),
        ({"targets": {"t": {"validation": "/v.jsonl"}}, "pool": [{"path": "hf:a/b"}], "out": "runs"}, "out: 'runs'"),
        ({"root": "data", "pool": [{"path": "hf:a/b"}], "targets": SCORED}, "targets.t.test: 'data/test.jsonl'"),
    ],
)
def test_paths_that_the_cluster_does_not_see_are_rejected(send, server, changes, key):
    with pytest.raises(InputError, match=key):
        send(changes)
    assert not server.sent


def test_no_cluster_is_reported_with_what_to_give():
    with pytest.raises(InputError, match="give the cluster's dashboard, http://HOST:8265, as --address"):
        jobs._client("http://127.0.0.1:9")
