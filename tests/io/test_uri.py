"""File systems of local paths, URIs and globs."""

from pathlib import Path

import pytest

from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.io.uri import expand, resolve, under_root, walk


@pytest.mark.parametrize("uri", ["nosuchscheme://x/y", "memoryy://x"])
def test_an_unknown_scheme_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="use a local path or a URI that pyarrow or fsspec knows"):
        resolve(uri)


def test_a_place_that_does_not_answer_is_the_users_to_correct(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(uri: str) -> None:
        raise OSError("could not resolve host")

    monkeypatch.setattr("instsel.io.uri.pafs.FileSystem", type("Gone", (), {"from_uri": staticmethod(unreachable)}))
    with pytest.raises(InputError, match="hdfs://bucket/x: could not resolve host; correct it or make it reachable"):
        resolve("hdfs://bucket/x")


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
    (folder / "deep" / "er").write("a.jsonl", b"1")
    (folder / "c.jsonl").write(".hidden", b"1")
    assert expand(f"{where}/*.jsonl") == [f"{where}/a.jsonl", f"{where}/b.jsonl"]
    assert expand(f"{where}/*.jsonl", folders=True) == [f"{where}/{name}.jsonl" for name in "abc"]
    assert expand(f"{where}/[ab].jsonl") == expand(f"{where}/?.jsonl") == expand(f"{where}/*.jsonl")
    assert expand(f"{where}/none*") == expand(f"{where}/none/*") == expand(f"{where}/none/**") == []
    assert expand(f"{where}/none") == [f"{where}/none"]
    assert expand(f"{where}/**/a.jsonl") == [f"{where}/a.jsonl", f"{where}/deep/er/a.jsonl"]
    assert expand(f"{where}/d*/er/*.jsonl") == expand(f"{where}/**/e*/**") == [f"{where}/deep/er/a.jsonl"]
    assert walk(where) == ["a.jsonl", "a.txt", "b.jsonl", "deep/er/a.jsonl"]


TREE = (
    "a.jsonl",
    "sub/b.jsonl",
    "sub/deep/c.jsonl",
    "._a.jsonl",
    ".cache/d.jsonl",
    "data[v2]/e.jsonl",
    "100%/f#.jsonl",
)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["a.jsonl"]),
        ("*/*", ["100%/f#.jsonl", "data[v2]/e.jsonl", "sub/b.jsonl"]),
        ("**", [name for name in sorted(TREE) if not name.startswith(".")]),
        ("**/*.jsonl", [name for name in sorted(TREE) if not name.startswith(".")]),
        ("**/deep/**/*.jsonl", ["sub/deep/c.jsonl"]),
        ("**/**/c*", ["sub/deep/c.jsonl"]),
        ("s*/d*/c.jsonl", ["sub/deep/c.jsonl"]),
        ("*/b.jsonl", ["sub/b.jsonl"]),
        (".*", ["._a.jsonl"]),
        (".cache/*", [".cache/d.jsonl"]),
        ("data[v2]/*.jsonl", ["data[v2]/e.jsonl"]),
        ("data[[]v2]/*", ["data[v2]/e.jsonl"]),
        ("data[v2]/e.jsonl", ["data[v2]/e.jsonl"]),
        ("[a-b].jsonl", ["a.jsonl"]),
        ("A*", []),
        ("*/deep", []),
    ],
)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_patterns_match_as_in_a_shell(pattern: str, expected: list[str], scheme: str, tmp_path: Path) -> None:
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [path.partition(f"{tmp_path}/")[2] for path in expand(f"{scheme}{tmp_path}/{pattern}")]
    assert names == expected


def test_relative_patterns_stay_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.jsonl").touch()
    assert expand("**/*.jsonl") == expand("s*/*.jsonl") == ["sub/a.jsonl"]
    assert walk("sub") == ["a.jsonl"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    for folder in ("data", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").touch()
    (tmp_path / "data/other").symlink_to(tmp_path / "other")
    (tmp_path / "data/self").symlink_to(tmp_path / "data")
    (tmp_path / "other/back").symlink_to(tmp_path / "data")
    (tmp_path / "data/gone.jsonl").symlink_to(tmp_path / "nowhere")
    assert walk(str(tmp_path / "data")) == ["a.jsonl", "gone.jsonl", "other/a.jsonl"]
    assert expand(f"{tmp_path}/data/g*") == [f"{tmp_path}/data/gone.jsonl"]


@pytest.mark.parametrize("name", ["a#b", "a b", "100%", "a%20b", "é", "what?"])
def test_a_file_uri_is_taken_as_it_is_written_where_that_exists(name: str, tmp_path: Path) -> None:
    assert resolve(f"file://{tmp_path}/a%20c")[1] == f"{tmp_path}/a c"
    (tmp_path / name).touch()
    assert (
        resolve(f"file://{tmp_path}/{name}")[1]
        == resolve(f"file://localhost{tmp_path}/{name}")[1]
        == f"{tmp_path}/{name}"
    )


@pytest.mark.parametrize("uri", ["https://example.com/a", "HTTP://example.com/a", "ftp://example.com/a"])
def test_a_web_address_is_refused(uri: str) -> None:
    with pytest.raises(
        InputError, match="is a web address, which is not read; download it and give the path of the file"
    ):
        resolve(uri)
