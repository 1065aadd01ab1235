"""Results of other settings: kept on a disk, deleted in a store only when asked for."""

import uuid
from pathlib import Path

import pytest

from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.study.folder import STALE, Cost, StageFolder, duration, open_folder
from instsel.study.redo import check_redo, clean_study
from instsel.study.results import ReportResult


def _stage(folder: Folder, dim: int = 64, version: int = 1, redo: bool = False) -> StageFolder:
    return StageFolder(
        folder / "features", "features", {"dim": dim}, version=version, stale=None if redo else folder / STALE
    )


def _made(stage: StageFolder, seconds: float) -> StageFolder:
    stage.start()
    stage.folder.write("shard", str(stage.settings["dim"]).encode())
    stage.commit(ReportResult(), Cost(seconds=seconds))
    return stage


def test_fault_04_what_took_long_is_kept_on_a_disk_and_comes_back(tmp_path: Path) -> None:
    folder, said = open_folder(str(tmp_path), "s"), list[str]()
    first = _made(_stage(folder), 12_000)
    changed = _stage(folder, dim=128)
    check_redo([changed], folder, False, said.append)
    assert said[0] == "redone: features took 3 h 20 min: changed dim"
    assert f"kept in {folder}/stale" in said[1] and f"`instsel clean {folder}`" in said[1]
    assert not changed.restore()
    _made(changed, 12_000)
    kept = f"features-{first.fingerprint}"
    assert ((folder / STALE).names(), (folder / STALE / kept).read("shard")) == ([kept], b"64")
    again = _stage(folder)
    assert again.restore() and again.done()
    assert again.folder.read("shard") == b"64"
    assert (folder / STALE).names() == [f"features-{changed.fingerprint}"]
    clean_study(str(tmp_path), said.append)
    assert said[-1].startswith(f"{tmp_path}: deleted features-{changed.fingerprint}, ")
    assert not folder.exists(STALE) and again.done()
    clean_study(str(tmp_path), said.append)
    assert said[-1] == f"{tmp_path}: nothing to delete"


def test_fault_04_what_took_less_than_a_minute_is_not_kept(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path), "s")
    _made(_stage(folder), 50)
    check_redo([_stage(folder, dim=128)], folder, False, pytest.fail)
    _made(_stage(folder, dim=128), 1)
    assert not folder.exists(STALE)


def test_fault_04_an_unfinished_stage_is_kept_by_the_times_of_its_files(tmp_path: Path) -> None:
    import os

    folder, stage = open_folder(str(tmp_path), "s"), _stage(open_folder(str(tmp_path), "s"))
    stage.start()
    stage.folder.write("shard", b"1")
    started = (tmp_path / "features/started.json").stat().st_mtime
    os.utime(tmp_path / "features/shard", (started, started + 7200))
    _stage(folder, version=2).start()
    assert (folder / STALE).names() == [f"features-{stage.fingerprint}"]


def test_fault_04_in_a_store_it_has_to_be_asked_for() -> None:
    uri = f"memory://{uuid.uuid4().hex}"
    folder = open_folder(uri, "s")
    first = _made(_stage(folder), 7200)
    with pytest.raises(InputError) as error:
        check_redo([_stage(folder, version=2)], folder, False, print)
    told = "features took 2 h 0 min: version 1 of the stage wrote it, this is version 2"
    assert str(error.value).startswith("--redo: ") and told in str(error.value)
    with pytest.raises(InputError, match="which took 2 h 0 min; run with --redo to delete them"):
        _stage(folder, version=2).start()
    assert first.done()
    said: list[str] = []
    asked = _stage(folder, version=2, redo=True)
    check_redo([asked], folder, True, said.append)
    assert said == [f"deleted and redone: {told}"]
    _made(asked, 1)
    assert asked.done() and not folder.exists(STALE)


def test_only_the_folder_of_a_study_is_cleaned(tmp_path: Path) -> None:
    (tmp_path / STALE).mkdir()
    with pytest.raises(InputError, match="is no study folder"):
        clean_study(str(tmp_path), print)
    assert (tmp_path / STALE).exists()


@pytest.mark.parametrize(
    ("seconds", "text"), [(59, "59 s"), (61, "1 min"), (12_000, "3 h 20 min"), (7199, "2 h 0 min")]
)
def test_times_are_told_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
