"""A study whose driver, workers or raylet are killed at random moments ends with the bytes of one that nobody touched.

Run by `pytest -m soak tests/cluster/test_soak.py`, half an hour on two idle cores. Each kill is a test that depends on
its number and the seed alone: `-k kill-7` does that one again. `SOAK_KILLS` (30) says how many there are, and
`SOAK_SEED` (20) makes others of them.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from instsel.pipeline.registry import stage_names
from instsel.report.html import write_report
from tests.cli.test_interrupts import COMMAND
from tests.cluster.nodes import wait_for

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

KILLS, SEED = int(os.environ.get("SOAK_KILLS", "30")), int(os.environ.get("SOAK_SEED", "20"))
KINDS = ("driver", "worker", "raylet")
MOST_STARTS = 4
# Those of Ray itself: without one of them a raylet ends, which is another kill's turn.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
# Workers that mostly wait. They are killed where there is no other.
WAITING = ("IDLE", "_StatsActor", "_AutoscalingCoordinatorActor", "ActorLocationTracker")
# How long processes of a Ray whose driver or raylet is gone may take to notice.
LEAVING_SECONDS = 60
# A look at all processes of a machine takes time that the study needs.
LOOK_SECONDS = 0.5
# Times, and how much work was done again: they differ from run to run, and the report shows them.
LOG, REPORT = "instsel.log", ("report/report.html", "report/report.md")
TIMES = {"cost", "seconds", "selection_seconds", "training_seconds", "rows_reprocessed"}


class Command:
    """`instsel run` in a process of its own with a Ray of its own, and all processes that were seen below it."""

    def __init__(self, study: Path, home: Path) -> None:
        """Start it; `home` is a new folder for its Ray and what it prints."""
        home.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment = {
            **kept,
            # Other Rays of this machine are not found from there.
            "RAY_TMPDIR": str(home),
            "RAY_memory_usage_threshold": "0.99",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._home, self._began = home, time.monotonic()
        with open(home / "stdout", "w") as out, open(home / "stderr", "w") as errors:
            command = [*COMMAND, "run", str(study)]
            self.driver = subprocess.Popen(command, env=environment, stdout=out, stderr=errors)
        self._seen: set[psutil.Process] = set()
        self._looked = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._began

    @property
    def said(self) -> str:
        """What it has printed."""
        return (self._home / "stdout").read_text() + (self._home / "stderr").read_text()

    @property
    def stage(self) -> str:
        """The stage that it is in."""
        lines = [line for line in (self._home / "stdout").read_text().splitlines() if line]
        return next((line for line in reversed(lines) if line.split()[0] in stage_names()), "its start")

    def is_running(self) -> bool:
        """Return whether the driver runs, and look now and then at what it has started."""
        if self.seconds > self._looked + LOOK_SECONDS:
            self._look()
        return self.driver.poll() is None

    def ended(self) -> int:
        """Wait for the driver's end; its status."""
        try:
            wait_for(lambda: not self.is_running(), f"the end of a command in {self.stage}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said[-4000:]}") from None
        return self.driver.wait()

    def candidates(self, kind: str) -> list[tuple[psutil.Process, str]]:
        """Return its processes of a kind with their names, oldest first; of workers the busy ones, if any are."""
        if kind == "driver":
            return [(psutil.Process(self.driver.pid), "driver")]
        found = []
        for process in self._look():
            with suppress(psutil.NoSuchProcess):
                words = process.cmdline() or [""]
                is_raylet = Path(words[0]).name == "raylet"
                is_worker = words[0].startswith("ray::") and not words[0].startswith(AGENTS)
                if is_raylet if kind == "raylet" else is_worker:
                    found.append((process, "raylet" if is_raylet else words[0].removeprefix("ray::")))
        return [each for each in found if each[1] not in WAITING] or found

    def end(self) -> list[str]:
        """End whatever of it runs; return the names of those that did not end by themselves after the driver."""
        if self.driver.poll() is None:
            self._look()
            self.driver.kill()
        self.driver.wait()
        _, left = psutil.wait_procs(self._seen, LEAVING_SECONDS)
        names = []
        for process in left:
            with suppress(psutil.NoSuchProcess):
                names.append(" ".join(process.cmdline())[:80])
                process.kill()
        return names

    def _look(self) -> list[psutil.Process]:
        """Return the processes below the driver, oldest first."""
        try:
            below = psutil.Process(self.driver.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._looked = self.seconds
        self._seen.update(below)
        return sorted(below, key=lambda process: (process.create_time(), process.pid))


@dataclass(frozen=True)
class Kill:
    """What was killed, after how many seconds, and in which stage."""

    name: str
    seconds: float
    stage: str


@dataclass(frozen=True)
class Undisturbed:
    """The study that nobody touched: what it left, and the seconds that it took."""

    left: dict[str, Any]
    seconds: float


class Studies:
    """Starts of one study in one folder, which is new for each run of it: the bytes of some files name the folder."""

    def __init__(self, folder: Path, study: dict[str, Any]) -> None:
        """Write the study file."""
        self._folder, self.path, self.out = folder, folder / "study.yaml", Path(study["out"])
        self.path.write_text(yaml.safe_dump(study), encoding="utf-8")
        self.commands: list[Command] = []
        self._count = 0

    def new(self) -> Command:
        """Start the study from nothing."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.commands = []
        return self.again()

    def again(self) -> Command:
        """Start the same command again."""
        self._count += 1
        self.commands.append(Command(self.path, self._folder / str(self._count)))
        return self.commands[-1]

    def end(self) -> list[str]:
        """End what runs of the last run; see `Command.end`."""
        return [name for command in self.commands for name in command.end()]


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory, study_writer: Callable[..., dict[str, Any]]) -> Iterator[Studies]:
    """A study of 48 rows through its report, with two training workers and a checkpoint after each step."""
    folder = tmp_path_factory.mktemp("soak")
    study = study_writer(
        folder,
        pool_rows=48,
        validation_rows=2,
        heldout_rows=2,
        data={"max_length": 128, "shard_rows": 12},
        mixture={"categories": "source", "evaluation_rows": 2, "least_rows": 4},
        selection={"budget": 12, "methods": ["random", "bids", {"method": "equal", "by": "category"}]},
        finetune={"epochs": 2, "learning_rate": 1e-2, "batch_size": 4},
        resources={"actors": 2, "training_workers": 2, "checkpoint_minutes": 1e-6, "max_failures": 10},
    )
    made = Studies(folder, study)
    yield made
    made.end()


@pytest.fixture(scope="module")
def undisturbed(studies: Studies) -> Undisturbed:
    command = studies.new()
    assert command.ended() == 0, command.said
    seconds = command.seconds
    assert studies.end() == []
    return Undisturbed(contents(studies.out), seconds)


def contents(out: Path) -> dict[str, Any]:
    """Read every file of a finished study: its bytes, of JSON its values without times and repeated work.

    The log is left out. The report shows times, so it is compared with the one that `instsel report` makes of the
    folder as it is, and the values of summary.json with those of other runs.
    """
    files = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    write_report([str(out)])
    for name in (*REPORT, "report/summary.json"):
        assert (out / name).read_bytes() == files[name], f"{name} is not the report of its folder"
    return {
        name: _without_times(json.loads(data)) if name.endswith(".json") else data
        for name, data in files.items()
        if name != LOG and name not in REPORT
    }


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of files that differ, or that only one of the two has."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def disturb(command: Command, kind: str, moment: float, generator: np.random.Generator) -> Kill | None:
    """Kill a process of a kind at a moment, or as soon as there is one; None where the command ends before that."""
    while command.is_running():
        candidates = command.candidates(kind) if command.seconds >= moment else []
        if candidates:
            process, name = candidates[generator.integers(len(candidates))]
            kill = Kill(name, command.seconds, command.stage)
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
                return kill
        time.sleep(0.05)
    return None


def finish(studies: Studies) -> None:
    """Start the command again until it ends well."""
    command = studies.commands[-1]
    while (status := command.ended()) != 0:
        assert len(studies.commands) < MOST_STARTS, f"status {status} after {MOST_STARTS} starts:\n{command.said}"
        is_held = (studies.out / "lease.json").exists()
        command = studies.again()
        command.ended()
        # That of a process of this machine, which is dead.
        assert "waiting for up to" not in command.said, command.said
        assert not is_held or "was stale" in command.said, command.said


def test_two_undisturbed_runs_leave_the_same(studies: Studies, undisturbed: Undisturbed) -> None:
    command = studies.new()
    assert command.ended() == 0, command.said
    assert differing(contents(studies.out), undisturbed.left) == []


@pytest.mark.parametrize("number", range(KILLS), ids=lambda number: f"kill-{number}")
def test_a_killed_study_ends_with_the_same_bytes(
    number: int, studies: Studies, undisturbed: Undisturbed, capsys: pytest.CaptureFixture[str]
) -> None:
    generator, kind = np.random.default_rng([SEED, number]), KINDS[number % len(KINDS)]
    began, kill = time.monotonic(), None
    try:
        # A run may be faster than the one that was measured, and its Ray ends before it.
        while kill is None:
            kill = disturb(studies.new(), kind, generator.uniform(0, undisturbed.seconds), generator)
            left = [] if kill else studies.end()
        finish(studies)
        first = studies.commands[0]
        starts, seconds = len(studies.commands), time.monotonic() - began
        differ = differing(contents(studies.out), undisturbed.left)
    finally:
        left = studies.end()
    with capsys.disabled():
        outcome = f"differ: {', '.join(differ)}" if differ else "equal"
        print(
            f"\nkill {number}: {kill.name} after {kill.seconds:.1f} s in {kill.stage}; {starts} starts, "
            f"{seconds:.0f} s, {outcome}{f'; outlived: {left}' if left else ''}"
        )
        if starts > 1 and kind != "driver":
            print(f"  status {first.driver.returncode}: {first.said.strip().splitlines()[-1][:200]}")
    assert not differ and not left
    assert starts <= 2
