"""Folders on a local path, behind a file URI and behind fsspec: whole files or none."""

import errno
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from instsel.errors import InputError, StudyError
from instsel.io.store import Folder, space_errors

TABLE = pa.table({"id": ["a", "b", "c"], "n": [1, 2, 3], "tokens": [[1], [2, 3], []]})


@pytest.fixture(params=["local", "file://", "memory://", pytest.param("s3://", marks=pytest.mark.process)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    """A folder that is not there yet, in each kind of place."""
    places = {
        "local": str(tmp_path / "study"),
        "file://": f"file://{tmp_path}/study",
        "memory://": f"memory://{uuid.uuid4().hex}/study",
        "s3://": "s3://studies/a folder/study",
    }
    if request.param == "s3://":
        request.getfixturevalue("object_store")
    made = Folder.at(places[request.param])
    yield made
    made.remove()


def hidden_files(folder: Folder) -> list[str]:
    infos = folder.filesystem.get_file_info(pafs.FileSelector(folder.path, recursive=True))
    return [info.base_name for info in infos if info.base_name.startswith(".")]


def test_what_is_written_is_read_back(folder: Folder) -> None:
    assert (folder.exists(), folder.names(), folder.size()) == (False, [], 0)
    folder.write("a.bin", b"\x00\xff")
    folder.write_json("b.json", {"é": [1, None]})
    (folder / "sub").write_table("t.parquet", TABLE)
    (folder / "sub").write_table("t.arrow", TABLE)
    assert folder.names() == ["a.bin", "b.json", "sub"]
    assert (folder.read("a.bin"), folder.read_json("b.json")) == (b"\x00\xff", {"é": [1, None]})
    for name in ("t.parquet", "t.arrow"):
        assert (folder / "sub").read_table(name).equals(TABLE)
        assert (folder / "sub").read_table(name, ["n"]).equals(TABLE.select(["n"]))
    assert folder.size() > 1000
    assert hidden_files(folder) == []


def test_a_second_write_replaces_the_first(folder: Folder) -> None:
    folder.write("a", b"long first text")
    folder.write("a", b"second")
    assert (folder.read("a"), folder.names()) == (b"second", ["a"])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_what_was_there(folder: Folder, error: type[BaseException]) -> None:
    folder.write("old", b"old")
    for name in ("old", "new"):
        with pytest.raises(error), folder.writer(name) as stream:
            stream.write(b"half")
            raise error
    assert (folder.names(), folder.read("old"), hidden_files(folder)) == (["old"], b"old", [])


def test_nothing_is_visible_while_it_is_written(folder: Folder) -> None:
    with folder.writer("a") as stream:
        stream.write(b"1")
        assert (folder.names(), folder.exists("a")) == ([], False)
    assert folder.names() == ["a"]


def test_clean_takes_away_half_files_and_nothing_else(folder: Folder) -> None:
    folder.write("kept.part", b"1")
    folder.write(".hidden", b"1")
    for place in (folder, folder / "sub"):
        place.filesystem.create_dir(place.path)
        with place.filesystem.open_output_stream(f"{place.path}/.x.0.part") as stream:
            stream.write(b"half")
    folder.clean()
    assert (folder.names(), (folder / "sub").names()) == (["kept.part", "sub"], [])
    assert hidden_files(folder) == [".hidden"]


def test_remove_takes_everything_and_may_be_repeated(folder: Folder) -> None:
    (folder / "sub").write("a", b"1")
    folder.remove()
    folder.remove()
    folder.clean()
    assert (folder.exists(), folder.names()) == (False, [])


def test_a_folder_elsewhere_is_here_for_as_long_as_it_is_used(folder: Folder) -> None:
    folder.write("a", b"1")
    (folder / "sub").write("b", b"2")
    with folder.local() as local:
        assert ((local / "a").read_bytes(), (local / "sub" / "b").read_bytes()) == (b"1", b"2")
        assert (str(local) == folder.path) == folder.is_local
    assert local.exists() == folder.is_local
    assert folder.names() == ["a", "sub"]


def test_a_file_of_this_machine_is_copied(folder: Folder, tmp_path: Path) -> None:
    data = os.urandom(12_000_000)
    for name, content in (("large", data), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        folder.put(name, tmp_path / name)
    assert (folder.read("large") == data, folder.read("empty"), folder.names()) == (True, b"", ["empty", "large"])


def test_a_deleted_file_is_gone_and_others_stay(folder: Folder) -> None:
    folder.write("a", b"1")
    folder.write("b", b"2")
    folder.delete("a")
    folder.delete("a")
    assert folder.names() == ["b"]


def test_what_was_created_once_stays(folder: Folder) -> None:
    folder.create_once("a", b"first")
    folder.create_once("a", b"second")
    assert (folder.read("a"), hidden_files(folder)) == (b"first", [])


def test_a_file_uri_and_its_path_are_one_folder(tmp_path: Path) -> None:
    Folder.at(f"file://{tmp_path}/x").write("a", b"1")
    assert Folder.at(tmp_path / "x").read("a") == b"1"


def test_local_arrow_files_are_memory_mapped(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    folder.write_table("t.arrow", pa.table({"x": pa.array(range(1_000_000), pa.int64())}))
    before = pa.total_allocated_bytes()
    table = folder.read_table("t.arrow")
    assert len(table) == 1_000_000
    assert pa.total_allocated_bytes() - before < 1_000_000


WRITES: dict[str, Callable[[Folder, str], None]] = {
    "small": lambda folder, name: folder.write(name, b"x"),
    "large": lambda folder, name: folder.write(name, b"x" * 10_000_000),
    "json": lambda folder, name: folder.write_json(name, {"a": 1}),
    "parquet": lambda folder, name: folder.write_table(f"{name}.parquet", TABLE),
    "arrow": lambda folder, name: folder.write_table(f"{name}.arrow", TABLE),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the device that is always full")
@pytest.mark.parametrize("kind", WRITES)
def test_a_full_disk_is_told_and_leaves_what_was_done(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fixed:
        hex = "0" * 32

    folder = Folder.at(tmp_path)
    WRITES[kind](folder, "done")
    (done,) = folder.names()
    before = folder.read(done)
    ending = done.removeprefix("done")
    monkeypatch.setattr("instsel.io.store.uuid.uuid4", Fixed)
    for name in (f"new{ending}", done):
        os.symlink("/dev/full", tmp_path / f".{name}.@00000000.part")
        with pytest.raises(StudyError) as error:
            WRITES[kind](folder, name.removesuffix(ending) if ending else name)
        assert str(error.value).startswith(f"no space left while writing {tmp_path}/{name}; everything finished before")
        assert "free some space and run the same command again" in str(error.value)
    assert os.listdir(tmp_path) == [done]
    assert folder.read(done) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_behind_fsspec_is_told(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFile

    def full(self: MemoryFile, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    folder = Folder.at(f"memory://{uuid.uuid4().hex}")
    folder.write("done", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFile, "write", full)
        for name in ("done", "new"):
            with pytest.raises(StudyError, match="no space left while writing .*; everything finished before stays"):
                folder.write(name, b"2")
    assert (folder.names(), folder.read("done")) == (["done"], b"1")


def test_other_errors_of_the_disk_stay_what_they_are() -> None:
    with pytest.raises(PermissionError), space_errors("x"):
        raise PermissionError(errno.EACCES, "no")


def test_a_folder_as_text_is_its_place(object_store: object, tmp_path: Path) -> None:
    for place in ("s3://studies/one", "memory://shared/one", str(tmp_path)):
        folder = Folder.at(place)
        assert str(folder) == place == str(folder / "two").removesuffix("/two")
        assert (folder / "two/three").parent == folder / "two"
        assert (folder / "two").name == "two"
        (folder / "two").write("x", b"1")
        assert Folder.at(str(folder / "two")).read("x") == b"1"
    assert str(Folder.at("s3://studies/one/")) == "s3://studies/one"
    assert str(Folder.at("memory://")) == "memory://"
    assert str(Folder.at(f"file://{tmp_path}")) == str(tmp_path)


def test_bug_errors_of_a_store_named_no_scheme(object_store: object) -> None:
    folder = Folder.at("s3://studies/one")
    folder.write("a.json", b"{")
    folder.write("t.arrow", b"{")
    for read, name in ((folder.read_json, "a.json"), (folder.read_table, "t.arrow")):
        with pytest.raises(InputError, match=f"^s3://studies/one/{name} is damaged"):
            read(name)


def test_json_is_the_same_bytes_whatever_the_order_of_keys(folder: Folder) -> None:
    folder.write_json("a", {"x": 1, "y": {"b": 2, "a": 3}})
    folder.write_json("b", {"y": {"a": 3, "b": 2}, "x": 1})
    assert folder.read("a") == folder.read("b")
    assert json.loads(folder.read("a")) == {"x": 1, "y": {"a": 3, "b": 2}}


def test_fault_07_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[tuple[str, list[str]]] = []
    flush = os.fsync

    def watch(opened: int) -> None:
        flushed.append((os.path.basename(os.readlink(f"/proc/self/fd/{opened}")), Folder.at(tmp_path / "out").names()))
        flush(opened)

    monkeypatch.setattr(os, "fsync", watch)
    Folder.at(tmp_path / "out").write("a", b"1")
    (part, before), (folder, after) = flushed
    assert part.startswith(".a.") and part.endswith(".part") and before == []
    assert (folder, after) == ("out", ["a"])


def test_fault_07_a_file_that_is_listed_is_waited_for(tmp_path: Path) -> None:
    # As an NFS client that remembers a failed look-up: listed, and not found.
    for name, data in (("a", b"1"), ("t.arrow", None)):
        target = tmp_path / f"elsewhere-{name}"
        os.symlink(target, tmp_path / name)

        def write(target: Path = target, data: bytes | None = data, name: str = name) -> None:
            if data is None:
                Folder.at(tmp_path / "other").write_table(name, TABLE)
                os.rename(tmp_path / "other" / name, target)
            else:
                target.write_bytes(data)

        timer = threading.Timer(0.7, write)
        timer.start()
        folder = Folder.at(tmp_path)
        assert folder.read_table(name).equals(TABLE) if data is None else folder.read(name) == data
        timer.join()
    before = time.monotonic()
    with pytest.raises(FileNotFoundError):
        Folder.at(tmp_path).read("missing")
    assert time.monotonic() - before < 5


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x"])
def test_fault_13_names_that_lead_out_of_a_folder_are_refused(name: str, tmp_path: Path) -> None:
    folder = Folder.at(tmp_path / "study")
    uses: list[Callable[[], object]] = [
        lambda: folder / name,
        lambda: folder.read(name),
        lambda: folder.open(name),
        lambda: folder.read_table(name),
        lambda: folder.write(name, b""),
        lambda: folder.exists(name),
        lambda: folder.is_file(name),
        lambda: folder.delete(name),
        lambda: folder.create_once(name, b""),
    ]
    for use in uses:
        with pytest.raises(InputError, match="leads out of this folder"):
            use()
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "study"])
