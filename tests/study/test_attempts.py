"""Attempts at pieces of work, counted over the runs of a stage."""

import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsel.io.store import Folder
from instsel.study.attempts import count_attempt, count_rows_reprocessed, read_attempts
from instsel.study.folder import Cost, StageFolder
from instsel.study.results import ReportResult


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12))
def test_rows_of_every_start_but_the_first_count(starts: list[tuple[str, bool]]) -> None:
    folder = Folder.at(f"memory://{uuid.uuid4().hex}")
    rows = {"a": 5, "b": 7, "c": 0}
    known = read_attempts(folder)
    for piece, in_another_run in starts:
        known = read_attempts(folder) if in_another_run else known
        count_attempt(folder, piece, rows[piece], known)
    names = [piece for piece, _ in starts]
    assert count_rows_reprocessed(folder) == sum((names.count(piece) - 1) * rows[piece] for piece in set(names))


@pytest.mark.parametrize("times", [1, 3])
def test_a_stages_manifest_has_them_and_their_files_go(times: int, tmp_path: Path) -> None:
    stage = StageFolder(Folder.at(tmp_path), "features", {})
    for _ in range(times):
        stage.start()
        count_attempt(stage.folder, "shard", 10, read_attempts(stage.folder))
    stage.commit(ReportResult(), Cost(rows_reprocessed=1))
    assert stage.manifest()["cost"]["rows_reprocessed"] == 1 + 10 * (times - 1)
    assert stage.folder.names() == ["manifest.json", "started.json"]
