"""The image: linted, built from files that exist and are sent, small, without root, token or secret."""

import re
import subprocess
import sysconfig
from fnmatch import fnmatch
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[2]
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]


@pytest.fixture
def dockerfile(cluster: Path) -> Path:
    return cluster / "Dockerfile"


@pytest.fixture
def steps(dockerfile: Path) -> list[str]:
    """Instructions in order, comments dropped and continued lines joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if line and not line.startswith("#")]
    return re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()


def sent(name: str) -> bool:
    """Whether Docker sends a file to the build: the last pattern that fits the file or a folder of it decides."""
    parts = Path(name).parts
    decision = True
    for pattern in IGNORED:
        keep, plain = pattern.startswith("!"), pattern.removeprefix("!").removeprefix("**/")
        anywhere = "**/" in pattern
        for depth in range(1, len(parts) + 1):
            head = parts[:depth]
            if (len(head) == len(Path(plain).parts) and fnmatch("/".join(head), plain)) or (
                anywhere and fnmatch(head[-1], plain)
            ):
                decision = keep
    return decision


def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([hadolint, dockerfile], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_exists_and_is_sent(steps: list[str]) -> None:
    copies = [step.split()[2:] for step in steps if step.startswith("COPY")]
    sources = [source for copy in copies for source in copy[:-1]]
    assert sources[-1] == "."
    assert [name for name in sources[:-1] if not (ROOT / name).is_file() or not sent(name)] == []


def test_what_the_package_is_made_of_is_there_before_it_is_installed(steps: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    build = project["tool"]["hatch"]
    wanted = {"pyproject.toml", "constraints.txt", project["project"]["readme"], *project["project"]["license-files"]}
    wanted |= {build["version"]["path"], *build["build"]["targets"]["wheel"]["force-include"]}
    install = next(number for number, step in enumerate(steps) if step.startswith("RUN"))
    copied = {name for step in steps[:install] if step.startswith("COPY") for name in step.split()[2:-1]}
    assert copied == wanted


@pytest.mark.parametrize("name", ["instsel/cli/app.py", "jobs/run.py", "configs/quickstart.yaml"])
def test_what_a_job_runs_is_in_the_image(name: str) -> None:
    assert sent(name)


@pytest.mark.parametrize(
    "name", [".git/config", ".env", ".ray-token-7", "a/key.pem", "tests/conftest.py", "runs/x", "cluster/aws.yaml"]
)
def test_secrets_history_and_results_are_not_in_the_image(name: str) -> None:
    assert not sent(name)


def test_the_image_is_run_by_a_user_who_is_not_root(steps: list[str]) -> None:
    users = [step.split()[1] for step in steps if step.startswith("USER")]
    assert users == ["1000:100"]
    assert all("--chown=1000:100" in step for step in steps if step.startswith("COPY"))


def test_the_image_asks_for_a_token_and_holds_none(steps: list[str]) -> None:
    assert "ENV RAY_AUTH_MODE=token" in steps
    assert not any("RAY_AUTH_TOKEN" in step or "auth_token" in step for step in steps)


def test_torch_is_the_pinned_one_from_the_chosen_index(steps: list[str]) -> None:
    (install,) = [step for step in steps if step.startswith("RUN")]
    assert '${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} "$(grep \'^torch==\' constraints.txt)"' in install
    provenance = (ROOT / "constraints.txt").read_text().splitlines()
    assert len([line for line in provenance if line.startswith("torch==")]) == 1
