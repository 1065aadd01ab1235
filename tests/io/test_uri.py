"""File systems of local paths, URIs and globs."""

from pathlib import Path

import pytest

from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.io.uri import expand, resolve, under_root


@pytest.mark.parametrize("uri", ["nosuchscheme://x/y", "memoryy://x"])
def test_an_unknown_scheme_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="use a local path or a URI that pyarrow or fsspec knows"):
        resolve(uri)


def test_a_place_that_does_not_answer_is_the_users_to_correct(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(uri: str) -> None:
        raise OSError("could not resolve host")

    monkeypatch.setattr("instsel.io.uri.pafs.FileSystem", type("Gone", (), {"from_uri": staticmethod(unreachable)}))
    with pytest.raises(InputError, match="gs://bucket/x: could not resolve host; correct it or make it reachable"):
        resolve("gs://bucket/x")


def test_local_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert resolve("a/../b")[1] == str(tmp_path / "b")
    assert resolve("~/x")[1] == str(tmp_path / "home/x")


@pytest.mark.parametrize(
    ("root", "place", "expected"),
    [
        ("data", "a.jsonl", "data/a.jsonl"),
        ("data/", "a.jsonl", "data/a.jsonl"),
        ("data", "/abs/a.jsonl", "/abs/a.jsonl"),
        ("data", "s3://b/a.jsonl", "s3://b/a.jsonl"),
        ("data", "hf:owner/name", "hf:owner/name"),
        ("s3://b/data", "a.jsonl", "s3://b/data/a.jsonl"),
        ("data", "~/a.jsonl", "/home/someone/a.jsonl"),
        ("~", "a.jsonl", "/home/someone/a.jsonl"),
    ],
)
def test_relative_places_start_from_the_root(
    root: str, place: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert under_root(root, place) == expected


@pytest.mark.parametrize("where", ["{}", "memory://globs/study", "s3://studies/a folder"])
def test_globs_give_files_in_sorted_order(where: str, tmp_path: Path, object_store: object) -> None:
    where = where.format(tmp_path)
    folder = Folder.at(where)
    for name in ("b.jsonl", "a.jsonl", "a.txt"):
        folder.write(name, b"1")
    folder.filesystem.create_dir(f"{folder.path}/c.jsonl")
    assert expand(f"{where}/*.jsonl") == [f"{where}/a.jsonl", f"{where}/b.jsonl"]
    assert expand(f"{where}/[ab].jsonl") == expand(f"{where}/?.jsonl") == expand(f"{where}/*.jsonl")
    assert expand(f"{where}/none*") == expand(f"{where}/none/*") == []
    assert expand(f"{where}/none") == [f"{where}/none"]
