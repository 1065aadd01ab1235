"""The shell scripts are ones that shellcheck has nothing to say about, and can be run."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["local.sh", "slurm.sh"])
def test_shellcheck_finds_nothing(cluster: Path, name: str) -> None:
    shellcheck = Path(sysconfig.get_path("scripts")) / "shellcheck"
    done = subprocess.run([shellcheck, cluster / name], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["local.sh", "slurm.sh"])
def test_scripts_can_be_run_and_stop_at_an_error(cluster: Path, name: str) -> None:
    assert os.access(cluster / name, os.X_OK)
    lines = (cluster / name).read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    commands = [line for line in lines if line and not line.startswith("#")]
    assert commands[0] == "set -euo pipefail"
