"""A finished study to read, and one to change."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import instsel
from instsel.api.study import Study


@pytest.fixture
def study(finished_study: dict[str, Any]) -> Study:
    """The finished study, opened."""
    return instsel.open_study(finished_study["out"])


@pytest.fixture
def copied(finished_study: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of the finished study's folder, for tests that write into it."""
    return Path(shutil.copytree(finished_study["out"], tmp_path / "copy"))
