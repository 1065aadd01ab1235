"""A package brings a filter, and a study file names it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from instsel.errors import InputError
from instsel.filters import registry
from instsel.filters.base import Filter, FilterRow
from instsel.filters.registry import REGISTRY, load_filters
from tests.plugins import NO_LINKS, write_package

POINT = "[instsel.filters]\nno_links = {module}:NoLinks"
# Reads a study file and applies its filters, in a process in which the package is installed.
PROGRAM = """
import sys
from instsel.config.file import load_study
from instsel.filters.base import FilterRow, rejections
filters = load_study(sys.argv[1]).data.filters
rows = [FilterRow([{"role": "user", "content": text}]) for text in ("see https://a.example", "see below")]
print([each.name for each in filters], rejections(filters, rows))
"""


def run(package: str, study: Path) -> subprocess.CompletedProcess[str]:
    """Run the program where a package is installed."""
    path = os.pathsep.join([package, os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[2])])
    command = [sys.executable, "-c", PROGRAM, str(study)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Write a study file that names a filter of a package."""
    path = tmp_path / "study.yaml"
    raw = {
        "name": "s",
        "out": "runs/s",
        "model": {"name": "m"},
        "pool": [{"path": "pool.jsonl"}],
        "targets": {"t": {"validation": "v.jsonl"}},
        "selection": {"budget": 0.1, "methods": ["random"]},
        "data": {"filters": [{"filter": "no_links", "most": 0}, "no_links"]},
    }
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.process
def test_a_study_filters_by_a_filter_that_a_package_brings(study: Path, tmp_path: Path) -> None:
    done = run(write_package(tmp_path / "site", "brings-a-filter", "brought", NO_LINKS, POINT), study)
    assert done.stderr == ""
    assert done.stdout == "['no_links', 'no_links-2'] ['filter no_links: more than 0 links', None]\n"
    study.write_text(study.read_text().replace("most", "must"))
    done = run(str(tmp_path / "site"), study)
    assert "data.filters.0.must: unknown key; did you mean most?" in done.stderr


@pytest.mark.process
def test_without_the_package_the_filter_is_unknown(study: Path, tmp_path: Path) -> None:
    assert (
        "data.filters.0: the filter 'no_links' is unknown; known are 'column', 'language'"
        in run(str(tmp_path), study).stderr
    )


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nothing_of_this_name", "cannot be loaded: No module named 'nothing_of_this_name'"),
        ("NoLinks = 3", "cannot be loaded: it is 3, no subclass of instsel.filters.base.Filter"),
        ("from instsel.filters.base import Filter as NoLinks", "cannot be loaded: Filter is abstract: it lacks reject"),
        (NO_LINKS.replace('Literal["no_links"]', "str"), "NoLinks.filter must be annotated with the filter's name"),
        (NO_LINKS.replace('"no_links"', '"length"'), "brings the filter 'length', as instsel does; uninstall one"),
    ],
)
def test_a_broken_package_is_named(code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "plugin_f", raising=False)
    monkeypatch.syspath_prepend(write_package(tmp_path, "brings-f", "plugin_f", code, POINT))
    loaded = load_filters()
    assert loaded.filters == REGISTRY.filters
    with pytest.raises(InputError, match=re.escape(message)) as error:
        loaded.check()
    assert "instsel.filters: entry point no_links = plugin_f:NoLinks of brings-f" in str(error.value)
    monkeypatch.setattr(registry, "REGISTRY", loaded)
    with pytest.raises(InputError, match="of brings-f"):
        registry._entry("length")


def test_a_package_brings_a_filter_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(write_package(tmp_path, "brings-g", "plugin_g", NO_LINKS, POINT))
    loaded = load_filters()
    loaded.check()
    assert set(loaded.filters) == {*REGISTRY.filters, "no_links"}
    brought: type[Filter] = loaded.filters["no_links"]
    assert (
        brought(filter="no_links").reject(FilterRow([{"role": "user", "content": "http://x"}])) == "more than 0 links"
    )
