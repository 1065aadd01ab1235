"""Stages of a study folder: what is done stays done, what changed is made anew, what was interrupted goes on."""

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.errors import InputError, StudyError
from instsel.io.store import Folder
from instsel.study.folder import (
    STUDY,
    Cost,
    StageFolder,
    count_attempt,
    count_rows_reprocessed,
    open_folder,
    read_attempts,
    read_study_entry,
)
from instsel.study.results import ReportResult, Result


class Work(Result):
    """What the stages here leave."""

    rows: int | None = None
    made: str | None = None


Chain = Callable[..., dict[str, StageFolder]]


@pytest.fixture(params=["local", "memory"])
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    """Makes stages a -> b -> c, and d beside c, whose keys can be changed."""
    folder = Folder.at(tmp_path if request.param == "local" else f"memory://{uuid.uuid4().hex}")

    def make(**changed: Any) -> dict[str, StageFolder]:
        stages: dict[str, StageFolder] = {}
        for name, parents in (("a", ""), ("b", "a"), ("c", "b"), ("d", "b")):
            settings = {"key": changed.get(name, 1)}
            version = changed.get("version", 1) if name == "b" else 1
            before = [stages[parent] for parent in parents]
            stages[name] = StageFolder(folder / name, name, settings, before, {"file": changed.get("file", 1)}, version)
        return stages

    return make


def finish(stages: dict[str, StageFolder]) -> None:
    for stage in stages.values():
        if not stage.done():
            stage.start()
            stage.folder.write("work", stage.name.encode())
            stage.commit(Work(made=stage.name))


def done(stages: dict[str, StageFolder]) -> str:
    return "".join(name for name, stage in stages.items() if stage.done())


def test_a_stage_is_done_from_its_commit_on(chain: Chain) -> None:
    stages = chain()
    assert done(stages) == ""
    stages["a"].start()
    assert done(stages) == ""
    stages["a"].commit(Work())
    assert done(stages) == "a"
    finish(stages)
    assert done(chain()) == "abcd"


@pytest.mark.parametrize(("changed", "left"), [("a", ""), ("b", "a"), ("c", "abd"), ("d", "abc")])
def test_a_changed_key_makes_exactly_the_stages_after_it_stale(chain: Chain, changed: str, left: str) -> None:
    finish(chain())
    assert done(chain(**{changed: 2})) == left
    assert done(chain()) == "abcd"
    finish(chain(**{changed: 2}))
    assert done(chain(**{changed: 2})) == "abcd"


def test_fault_04_another_version_of_a_stage_makes_it_and_those_after_it_stale(chain: Chain) -> None:
    finish(chain())
    assert done(chain(version=2)) == "a"


def test_fault_04_another_version_of_the_package_makes_no_stage_stale(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(chain())
    monkeypatch.setattr("instsel.study.folder.__version__", "999")
    assert done(chain()) == "abcd"


def test_another_file_of_the_user_makes_stages_stale(chain: Chain) -> None:
    finish(chain())
    assert done(chain(file=2)) == ""


def test_an_interrupted_stage_keeps_its_work_but_no_half_files(chain: Chain) -> None:
    stage = chain()["a"]
    stage.start()
    (stage.folder / "pool").write("shard", b"1")
    with stage.folder.filesystem.open_output_stream(f"{stage.folder.path}/pool/.next.0.part") as stream:
        stream.write(b"half")
    again = chain()["a"]
    again.start()
    assert (again.folder / "pool").read("shard") == b"1"
    assert not (again.folder / "pool").exists(".next.0.part")
    assert not again.done()


@pytest.mark.parametrize("finished", [False, True])
def test_a_changed_fingerprint_clears_what_was_there(chain: Chain, finished: bool) -> None:
    stage = chain()["b"]
    stage.start()
    stage.folder.write("work", b"1")
    if finished:
        stage.commit(Work())
    for changed in ({"b": 2}, {"a": 2}):
        other = chain(**changed)["b"]
        other.start()
        assert other.folder.names() == ["started.json"]
        other.folder.write("work", b"2")


def test_a_stage_that_was_begun_for_another_key_is_not_done(chain: Chain) -> None:
    finish(chain())
    chain(a=2)["a"].start()
    assert done(chain()) == "bcd"


def test_the_manifest_tells_what_was_made_from_what_at_what_cost(chain: Chain) -> None:
    stages = chain()
    stages["a"].start()
    time.sleep(0.02)
    stages["a"].commit(Work(rows=3), Cost(tokens=7, peak_memory=9))
    written = stages["a"].manifest()
    assert (written["stage"], written["settings"], written["result"]) == ("a", {"key": 1}, {"rows": 3})
    assert stages["a"].result(Work) == Work(rows=3)
    assert 0.02 <= written["cost"].pop("seconds") < 10
    assert written["cost"] == {"tokens": 7, "peak_memory_bytes": 9, "rows_reprocessed": 0}
    stages["b"].start()
    stages["b"].commit(Work())
    assert stages["b"].manifest()["parents"] == {"a": written["fingerprint"]}


def test_a_result_of_another_type_is_an_error_that_names_its_folder(chain: Chain) -> None:
    stage = chain()["a"]
    stage.start()
    stage.commit(Work(rows=3))

    class Other(Result):
        columns: int

    with pytest.raises(InputError, match=r"/a/manifest.json has no result of stage a: .*; delete that folder and run"):
        stage.result(Other)


def test_a_full_disk_leaves_the_stages_before_valid(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = chain()
    stages["a"].start()
    stages["a"].commit(Work())

    def full(self: Folder, name: str, value: Any) -> None:
        raise StudyError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write_json", full)
        with pytest.raises(StudyError):
            stages["b"].start()
        with pytest.raises(StudyError):
            stages["a"].commit(Work(rows=1))
    assert done(chain()) == "a"
    assert chain()["a"].manifest()["result"] == {}


@pytest.mark.parametrize("place", ["{tmp}/new/study", "file://{tmp}/new", "memory://{tmp}/new"])
def test_a_study_folder_is_made_once_and_found_again(place: str, tmp_path: Path) -> None:
    out = place.format(tmp=tmp_path)
    open_folder(out, "mine").write("kept", b"1")
    assert open_folder(out, "mine").read("kept") == b"1"


def test_the_folder_of_another_study_is_refused(tmp_path: Path) -> None:
    open_folder(str(tmp_path / "out"), "theirs").write("kept", b"1")
    with pytest.raises(InputError) as error:
        open_folder(str(tmp_path / "out"), "mine")
    assert str(error.value) == (
        f"out: {tmp_path}/out holds the study 'theirs', not 'mine'; give this study another folder"
    )
    assert open_folder(str(tmp_path / "out"), "theirs").read("kept") == b"1"


def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(InputError, match=r"out: .* holds files that are no study; give an empty or new folder"):
        open_folder(str(tmp_path), "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("below", ["", "/study"])
def test_a_file_in_place_of_the_folder_is_refused(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"out: .*/file.* cannot be used as a folder: .*; give another one"):
        open_folder(f"{tmp_path}/file{below}", "mine")
    assert (tmp_path / "file").read_text() == "x"


def test_the_folder_of_another_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path / "out"), "mine")
    folder.write_json(STUDY, {"name": "mine", "format": 1})
    for look in (lambda: open_folder(str(tmp_path / "out"), "mine"), lambda: read_study_entry(folder)):
        with pytest.raises(
            InputError, match=r"written by another version of instsel \(format 1, this one has format 2"
        ):
            look()
    assert folder.read_json(STUDY)["format"] == 1


@settings(deadline=None)
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
