"""What the tests of several stages use."""

from collections.abc import Iterator
from typing import Any

import pytest

from instsel.io.store import Folder
from instsel.pipeline import categorize as tag
from instsel.pipeline import extraction
from instsel.runtime.session import Allotment
from instsel.study.folder import Stage


@pytest.fixture(scope="session")
def prepared(finished_study: dict[str, Any]) -> Stage:
    """Stage *prepare* of the finished study."""
    return Stage(Folder.at(finished_study["out"]) / "prepare", "prepare", {})


@pytest.fixture(scope="session")
def allot() -> Allotment:
    """Two actors of one thread each."""
    return Allotment(actors=2, gpus=0, cpus=0.5, threads=1, workers=1, worker_gpus=0, worker_cpus=1, worker_threads=1)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let *tag* and the stages of `extraction` work with one actor in this process; tells the tables it was given."""
    given: list[str] = []

    def run(
        items: Any, rows: Folder, actor: Any, arguments: Any, allot: Allotment, stage_of: Any, columns: Any
    ) -> Iterator[dict[str, Any]]:
        worker = actor(allot.threads, *arguments)
        for item in items:
            given.append(item["rows"])
            table = rows.read_table(item["rows"], ["id", *columns])
            yield worker(item, table["id"].to_pylist(), table.select(columns).to_pylist())

    for stages in (extraction, tag):
        monkeypatch.setattr(stages, "through_actors", run)
    return given
