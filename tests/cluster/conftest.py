"""The files of cluster/, and commands on PATH that only note how they were called."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def cluster() -> Path:
    """The folder cluster/."""
    return ROOT / "cluster"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Environment of a script under test: its own home, no Ray or Slurm settings, `tmp_path/bin` first on PATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_", "INSTSEL_"))}
    (tmp_path / "bin").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "calls").mkdir()
    return {
        **kept,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "CALLS": str(tmp_path / "calls"),
    }


# A call is a file of its own: processes that append to one file may write over each other.
NOTES = """
import json, os, signal, sys, time
def note(**more):
    path = f"{os.environ['CALLS']}/{time.time_ns():020}-{os.getpid()}"
    with open(path + ".new", "w") as file:
        json.dump({"command": os.path.basename(sys.argv[0]), "arguments": sys.argv[1:], **more}, file)
    os.rename(path + ".new", path)
def noted():
    names = sorted(name for name in os.listdir(os.environ["CALLS"]) if not name.endswith(".new"))
    return [json.load(open(f"{os.environ['CALLS']}/{name}")) for name in names]
"""


@pytest.fixture
def fake(tmp_path: Path) -> Callable[[str, str], None]:
    """Put a command on PATH that is the given Python, which has `note`, `noted` and what `NOTES` imports."""

    def put(name: str, body: str) -> None:
        path = tmp_path / "bin" / name
        path.write_text(f"#!{sys.executable} -S\n{NOTES}{body}")
        path.chmod(0o755)

    return put


@pytest.fixture
def calls(environment: dict[str, str]) -> Callable[..., list[dict]]:
    """What was noted so far, in order; only the calls whose command and arguments hold all of `words`."""

    def read(*words: str) -> list[dict]:
        paths = sorted(path for path in Path(environment["CALLS"]).iterdir() if path.suffix != ".new")
        noted = [json.loads(path.read_text()) for path in paths]
        return [call for call in noted if all(word in [call["command"], *call["arguments"]] for word in words)]

    return read


@pytest.fixture(scope="session")
def ray_start() -> Callable[[list[str]], dict]:
    """Options of `ray start` as the real command reads them; fails where it knows one of them not."""
    from ray.scripts.scripts import start

    def parse(arguments: list[str]) -> dict:
        return start.make_context("ray start", list(arguments)).params

    return parse
