"""The checks of this repository, by name: `nox -l` lists them, `nox -s lint types` runs two of them.

Sessions use the environment that nox runs in, so that torch and Ray are installed once:

    python -m pip install -e '.[dev]' -c constraints.txt

`lowest` makes an environment of its own. What follows `--` goes to the command: `nox -s unit -- tests/selection -x`.
"""

import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "layers", "docs", "unit"]

NOT_HERE = "not long and not gpu and not soak"


def python(session: nox.Session, *arguments: str) -> None:
    """Run a command of this environment's Python, which may not be the first on the PATH."""
    session.run(sys.executable, *arguments, external=True)


def pytest(session: nox.Session, marker: str, *arguments: str) -> None:
    """Run the tests that a marker expression names."""
    python(session, "-m", "pytest", "-rs", "-m", marker, *arguments, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, style and the pins of constraints.txt; `-- --fix` mends what can be mended."""
    fix = "--fix" in session.posargs
    python(session, "-m", "ruff", "format", *([] if fix else ["--check"]), ".")
    python(session, "-m", "ruff", "check", *(["--fix"] if fix else []), ".")
    python(session, ".ci/lock.py", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy's strict rules."""
    python(session, "-m", "mypy", *session.posargs)


@nox.session
def layers(session: nox.Session) -> None:
    """Check which package imports which, and count what the design is judged by."""
    python(session, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", *session.posargs)
    python(session, ".ci/count.py", "--check", "--list")


@nox.session
def docs(session: nox.Session) -> None:
    """Check links, anchors, file names, test names and commands of the Markdown files, without the network."""
    python(session, ".ci/docs.py", *session.posargs)


@nox.session
def unit(session: nox.Session) -> None:
    """Run the tests without Ray and without other processes."""
    pytest(session, "unit")


@nox.session
def ray(session: nox.Session) -> None:
    """Run the tests with a real Ray on this machine."""
    pytest(session, f"ray and {NOT_HERE}")


@nox.session
def long(session: nox.Session) -> None:
    """Run the tests in which machines, workers and stores go away, and whole benchmarks."""
    pytest(session, "long")


@nox.session
def soak(session: nox.Session) -> None:
    """Kill a study at random moments, over and over, and compare what it ends with; SOAK_KILLS says how often."""
    pytest(session, "soak")


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure which lines the tests with and without Ray run, and hold to the floor in pyproject.toml."""
    pytest(session, f"(unit or ray) and {NOT_HERE}", "--cov", "--cov-report=term:skip-covered")


@nox.session
def bench(session: nox.Session) -> None:
    """Run a benchmark: `nox -s bench -- selection --rows 300 3000 --budget 50`. benchmarks/README.md lists them."""
    if not session.posargs:
        names = sorted(path.stem for path in Path("benchmarks").glob("*.py") if "__main__" in path.read_text("utf-8"))
        session.error(f"name a benchmark after --: {', '.join(names)}")
    python(session, "-m", f"benchmarks.{session.posargs[0]}", *session.posargs[1:])


@nox.session
def lock(session: nox.Session) -> None:
    """Write constraints.txt again: pins stay, what is new is added. `-- --upgrade` takes the newest versions."""
    python(session, ".ci/lock.py", *session.posargs)


@nox.session(venv_backend="uv|virtualenv", reuse_venv=True)
def lowest(session: nox.Session) -> None:
    """Run the unit tests with the lowest direct versions that pyproject.toml allows."""
    pins = Path(session.create_tmp()) / "lowest.txt"
    session.install("uv")
    session.run(
        *("uv", "pip", "compile", "pyproject.toml", "--quiet", "--extra", "test", "--resolution", "lowest-direct"),
        *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--output-file", str(pins)),
    )
    session.install("-r", str(pins))
    session.install("--no-deps", "-e", ".")
    # Warnings of old versions are not ours to mend. numpy.testing of NumPy 2.0 starts a process when it is imported,
    # which unit tests forbid, so it is imported before them.
    session.run("python", "-m", "pytest", "-m", "unit", "-W", "default", "-p", "numpy.testing", *session.posargs)
