"""Keep constraints.txt: pin what pyproject.toml asks for, and check that the pins satisfy it.

    python .ci/lock.py              # pin what is new, drop what nothing asks for, keep all other versions
    python .ci/lock.py --upgrade    # take the newest versions
    python .ci/lock.py --check      # exit with 1 if constraints.txt does not satisfy pyproject.toml

The file has one NAME==VERSION a line and nothing else, so that pip, uv and the image's build read it alike. uv resolves
it for Linux and the Python of the images in cluster/, which is also that of mypy. CUDA libraries are not pinned: which
of them torch needs depends on its build, and the number of torch is that of all builds.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parents[1]
PINS = ROOT / "constraints.txt"
EXTRA = "dev"
# What belongs to a build of torch, and what belongs to the environment rather than to the project.
NOT_PINNED = re.compile(r"nvidia-.*|cuda-.*|triton|pip|setuptools|wheel")
# Rivals that benchmarks compare with; they are installed by hand, each for its benchmark.
NOT_LOCKED = {"bench"}


def read_project() -> dict[str, Any]:
    """Return pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def read_pins() -> dict[str, Version]:
    """Return the pinned versions by normalised name.

    Raises:
        SystemExit: a line is no NAME==VERSION.
    """
    pins: dict[str, Version] = {}
    for line in PINS.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!-]+)", line)
        if match is None:
            raise SystemExit(f"constraints.txt: {line!r} is not NAME==VERSION")
        pins[canonicalize_name(match[1])] = Version(match[2])
    return pins


def read_requirements(project: dict[str, Any]) -> Iterator[tuple[str, Requirement]]:
    """Yield the direct requirements of the project and of its locked extras, each with the name of its list."""
    lists = {"dependencies": project["project"]["dependencies"], **project["project"]["optional-dependencies"]}
    for name, lines in lists.items():
        if name not in NOT_LOCKED:
            for line in lines:
                yield name, Requirement(line)


def check() -> list[str]:
    """Return what is wrong with constraints.txt, a sentence each."""
    project, pins = read_project(), read_pins()
    problems = []
    for where, requirement in read_requirements(project):
        name = canonicalize_name(requirement.name)
        if name == project["project"]["name"]:
            continue
        if name not in pins:
            problems.append(f"{requirement} ({where}) is not pinned")
        elif not requirement.specifier.contains(pins[name], prereleases=True):
            problems.append(f"{name}=={pins[name]} does not satisfy {requirement} ({where})")
    return problems


def lock(upgrade: bool) -> None:
    """Resolve pyproject.toml with uv, which takes the versions that constraints.txt has already."""
    python = read_project()["tool"]["mypy"]["python_version"]
    command = ["uv", "pip", "compile", "pyproject.toml", "--quiet", "--extra", EXTRA, "--output-file", PINS.name]
    command += ["--python-version", python, "--python-platform", "linux", "--no-header", "--no-annotate"]
    command += ["--no-emit-index-url", "--no-emit-find-links", *(["--upgrade"] if upgrade else [])]
    before = PINS.read_text(encoding="utf-8")
    try:
        subprocess.run(command, cwd=ROOT, check=True)
        lines = PINS.read_text(encoding="utf-8").splitlines()
        lines = [line for line in lines if not NOT_PINNED.fullmatch(line.partition("==")[0])]
        PINS.write_text("\n".join(lines) + "\n", encoding="utf-8")
        read_pins()
    except BaseException:
        PINS.write_text(before, encoding="utf-8")
        raise


def main() -> int:
    """Lock or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, exit with 1 if a pin is wrong or missing")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    options = parser.parse_args()
    if not options.check:
        lock(options.upgrade)
    problems = check()
    print("\n".join(problems) or f"{len(read_pins())} pins satisfy pyproject.toml")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
