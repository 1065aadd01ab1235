"""SIGTERM and Ctrl-C end a command with words, and with the status that a shell expects."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

COMMAND = [sys.executable, "-c", "from instsel.cli.app import app; app()"]


@pytest.mark.process
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_fault_08_a_signal_gives_its_status(number: int, status: int) -> None:
    program = (
        "import os\n"
        "from instsel.cli.app import exit_status\n"
        "with exit_status():\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    import time; time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == status
    assert done.stderr == "stopped; run the same command again to resume\n"


@pytest.mark.long
@pytest.mark.parametrize(("number", "status", "by"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")])
def test_fault_08_a_study_that_is_stopped_says_what_is_kept(
    number: int, status: int, by: str, tmp_path: Path, tiny_study: Any
) -> None:
    raw = tiny_study(selection={"budget": 0.25, "methods": ["less"]})
    study, out = tmp_path / "study.yaml", Path(raw["out"])
    study.write_text(yaml.safe_dump(raw))
    running = subprocess.Popen(
        [*COMMAND, "run", str(study)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ}
    )
    ends = time.monotonic() + 200
    # In a training, where Ray would have handlers of its own.
    while not (out / "warmup/started.json").exists():
        assert running.poll() is None and time.monotonic() < ends, running.communicate()[0]
        time.sleep(0.1)
    second = subprocess.run([*COMMAND, "run", str(study)], capture_output=True, text=True, timeout=120)
    assert second.returncode == 2
    assert f"is being written to by process {running.pid} on " in second.stderr
    time.sleep(3)
    running.send_signal(number)
    said = running.communicate(timeout=120)[0]
    assert running.returncode == status, said
    assert f"stopped by {by}; finished and kept: prepare; under way, its finished parts are kept: warmup;" in said
    assert "run the same command again to resume" in said
    assert not (out / "lease.json").exists()
