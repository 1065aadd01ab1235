"""`instsel submit`: run a study as a job of a Ray cluster, and follow its log from any number of calls."""

import asyncio
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError

from instsel.config.file import read_study
from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.data.sources import input_paths
from instsel.errors import InputError, StudyError
from instsel.io.fingerprint import fingerprint
from instsel.io.uri import under_root

# Where the study file lies in the job's working directory.
STUDY = "study.yaml"
TRIES = 5
WAIT_SECONDS = 3.0


@dataclass(frozen=True)
class JobSpec:
    """What to submit.

    Attributes:
        study: the study file, as a path on this machine or a URI.
        overrides: `--set` of the study file.
        command: of instsel, "run" or "search".
        until: last stage of a run.
        address: of the cluster's job server, http://HOST:8265; None for that of RAY_API_SERVER_ADDRESS or RAY_ADDRESS.
        pip: requirements file that the job's machines install first; None where their image has instsel.
        redo: pass on `--redo`.
    """

    study: str
    overrides: Sequence[str] = ()
    command: str = "run"
    until: str | None = None
    address: str | None = None
    pip: Path | None = None
    redo: bool = False

    @property
    def entrypoint(self) -> str:
        """Return the shell command of the job."""
        words = ["instsel", self.command, STUDY]
        words += [] if self.until is None else ["--until", self.until]
        words += [word for setting in self.overrides for word in ("--set", setting)]
        words += ["--redo"] if self.redo else []
        return shlex.join(words)


def submit(study: StudyConfig, spec: JobSpec, terminal: Terminal, follow: bool = True) -> str:
    """Submit a study, or join the job of it that is running, and follow its log to the end.

    The same study file gives the same job name. A job that has ended is submitted again under the next number, and
    resumes where the study's folder stopped.

    Returns:
        The job's submission id.

    Raises:
        InputError: the cluster does not answer or rejects the user.
        StudyError: the job failed or was stopped.
    """
    _check_paths(study)
    client = _client(spec.address)
    base = f"instsel-{study.name}-{fingerprint({'study': study.model_dump(), 'do': spec.entrypoint})[:8]}"
    job, running = _job(client, base)
    if running:
        terminal.say(f"job {job} is under way; coming back to it")
    else:
        with _working_dir(spec) as folder:
            environment = {"working_dir": str(folder)}
            if spec.pip is not None:
                environment["pip"] = str(spec.pip)
            client.submit_job(
                entrypoint=spec.entrypoint,
                submission_id=job,
                runtime_env=environment,
                metadata={"study": study.name, "stage": spec.until or spec.command, "out": study.out},
                # On the head, which has no CPU for work: the driver waits, and reads small tables.
                entrypoint_num_cpus=0,
            )
        terminal.say(f"submitted as job {job}")
    if not follow:
        return job
    try:
        status = _follow(client, job, terminal)
    except KeyboardInterrupt:
        terminal.say(f"job {job} continues to run. The same command follows it again; `ray job stop {job}` ends it")
        raise
    if status != "SUCCEEDED":
        message = client.get_job_info(job).message or ""
        raise StudyError(f"job {job} ended as {status.lower()}: {message.strip()[-500:]}; submit it again to resume")
    return job


def _check_paths(study: StudyConfig) -> None:
    """Reject paths that mean something else on the cluster's machines.

    Raises:
        InputError: a path is relative.
    """
    paths = {"out": study.out} | {key: under_root(study.root, path) for key, path in input_paths(study).items()}
    for key, path in paths.items():
        if "://" not in path and not path.startswith("hf:") and not os.path.isabs(os.path.expanduser(path)):
            raise InputError(
                f"{key}: {path!r} is below the folder where a command is run, and a job runs on another machine; give "
                "root and out as paths that all machines of the cluster share, or as URIs (s3://..., gs://...)"
            )


def _client(address: str | None) -> Any:
    try:
        from ray.job_submission import JobSubmissionClient

        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise InputError(f"{address}: {error}") from error
    except (ConnectionError, RuntimeError) as error:
        raise InputError(
            f"{address or 'no address'}: {error}; give the cluster's dashboard, http://HOST:8265, as --address"
        ) from error


def _job(client: Any, base: str) -> tuple[str, bool]:
    """Return the newest job of a name and whether it is running, or the name for the next job."""
    jobs = {job.submission_id: job.status for job in client.list_jobs() if job.submission_id}
    number = 1
    while f"{base}-{number}" in jobs:
        if not jobs[f"{base}-{number}"].is_terminal():
            return f"{base}-{number}", True
        number += 1
    return f"{base}-{number}", False


@contextmanager
def _working_dir(spec: JobSpec) -> Iterator[Path]:
    """Make a folder with the study file alone: nothing else of this machine is sent."""
    with tempfile.TemporaryDirectory(prefix="instsel-submit-") as folder:
        Path(folder, STUDY).write_bytes(read_study(spec.study))
        yield Path(folder)


def _follow(client: Any, job: str, terminal: Terminal) -> str:
    """Print the log as it comes until the job has ended; reconnect when the connection breaks."""
    log, tries = _Log(client, job, terminal), 0
    while True:
        try:
            asyncio.run(log.follow())
            status = client.get_job_status(job)
            tries = 0
        except (RuntimeError, OSError) as error:
            tries += 1
            if tries == TRIES:
                raise StudyError(
                    f"job {job}: the cluster no longer answers ({error}); it may still run, and the same command "
                    "comes back to it"
                ) from error
            status = None
        if status is not None and status.is_terminal():
            return str(status.value)
        time.sleep(WAIT_SECONDS)


class _Log:
    """Prints a job's log: each connection sends it from the start, and what was printed is skipped."""

    def __init__(self, client: Any, job: str, terminal: Terminal) -> None:
        self.client, self.job, self.terminal = client, job, terminal
        self.printed = 0

    async def follow(self) -> None:
        position = 0
        async for text in self.client.tail_job_logs(self.job):
            position += len(text)
            if position > self.printed:
                self.terminal.raw(text[-(position - self.printed) :])
                self.printed = position
