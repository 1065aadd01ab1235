"""A study's manifests are read as seldom as they can be, and again where a stage has run since."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from fsspec.implementations.local import LocalFileSystem

from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.study.folder import StageFolder
from instsel.study.reader import StudyReader
from instsel.study.results import Result


class Counted(pafs.FSSpecHandler):
    """Files on a disk, and how often each was opened."""

    def __init__(self, root: Path) -> None:
        super().__init__(LocalFileSystem())
        self.root, self.opened = root, Counter[str]()

    def open_input_file(self, path: str) -> Any:
        self.opened[str(Path(path).relative_to(self.root))] += 1
        return super().open_input_file(path)


def commit(stages: list[StageFolder]) -> None:
    for stage in stages:
        stage.start()
        stage.commit(Result())


def stages_of(study: Folder, setting: int) -> list[StageFolder]:
    first = StageFolder(study / "first", "first", {"setting": setting})
    second = StageFolder(study / "second", "second", {}, [first])
    return [first, second, StageFolder(study / "third", "third", {}, [first, second])]


def test_fault_19_a_manifest_is_read_once_by_a_reader(tmp_path: Path) -> None:
    commit(stages_of(Folder.at(tmp_path), 1))
    files = Counted(tmp_path)
    reader = StudyReader(Folder(pafs.PyFileSystem(files), str(tmp_path)))
    for _ in range(3):
        assert reader.manifest("third")["stage"] == "third"
        assert reader.manifest("second")["parents"].keys() == {"first"}
    assert files.opened == {f"{name}/manifest.json": 1 for name in ("first", "second", "third")}


def test_manifests_are_read_again_where_a_stage_has_run_since(tmp_path: Path) -> None:
    commit(stages_of(Folder.at(tmp_path), 1))
    reader = StudyReader(Folder.at(tmp_path))
    assert reader.manifest("third")["stage"] == "third"
    commit(stages_of(Folder.at(tmp_path), 2)[:1])
    reader.forget_manifests()
    assert reader.manifest("first")["settings"] == {"setting": 2}
    with pytest.raises(InputError, match="third is not of the first that is there now; run the study again"):
        reader.manifest("third")


def test_a_stage_that_is_not_finished_is_looked_for_again(tmp_path: Path) -> None:
    reader, stages = StudyReader(Folder.at(tmp_path)), stages_of(Folder.at(tmp_path), 1)
    with pytest.raises(InputError, match="has no finished stage 'first'"):
        reader.manifest("first")
    commit(stages)
    assert reader.manifest("second")["fingerprint"] == stages[1].fingerprint
