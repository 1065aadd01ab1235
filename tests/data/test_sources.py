"""The files of a study: found in order, named by their key where they are not there, told apart by content."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsel.config.file import parse_study
from instsel.data.sources import files_identity, pool_files, target_files
from instsel.errors import InputError

ROW = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


@pytest.fixture
def make(tiny_study: Callable[..., dict[str, Any]], write_rows: Callable[..., Path]) -> Callable[..., Any]:
    """A tiny study over these pool sources and targets."""
    write_rows("other/b.jsonl", [ROW])
    write_rows("other/a.jsonl", [ROW])
    return lambda **parts: parse_study(tiny_study(**parts), "study.yaml")


def test_pool_files_come_in_the_order_of_the_study_file(make: Callable[..., Any], tmp_path: Path) -> None:
    pool = [
        {"path": "other/*.jsonl", "source": "mine", "format": "messages", "rows_per_file": 3},
        {"path": str(tmp_path / "pool/rows.jsonl")},
        {"path": "hf:owner/name", "split": "test"},
    ]
    files = pool_files(make(pool=pool))
    assert [file.uri.removeprefix(f"{tmp_path}/") for file in files] == [
        "other/a.jsonl",
        "other/b.jsonl",
        "pool/rows.jsonl",
        "hf:owner/name",
    ]
    assert (files[0].source, files[0].layout.row_format, files[0].limit) == ("mine", "messages", 3)
    assert (files[2].source, files[2].layout.row_format, files[2].limit) == (None, "auto", None)
    assert files[3].split == "test"


def test_a_target_has_validation_and_perhaps_heldout(make: Callable[..., Any]) -> None:
    study = make(targets={"t": {"validation": "other/a.jsonl", "format": "messages"}})
    files = target_files(study, "t")
    assert list(files) == ["validation"]
    assert files["validation"][0].layout.row_format == "messages"
    assert list(target_files(make(), "sums")) == ["validation", "heldout"]


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("none.jsonl", "does not exist; correct the path"),
        ("none/*.jsonl", "no file matches"),
        ("pool", "is a folder but not a saved dataset; write"),
        ("empty.jsonl", "is empty; remove it or correct the path"),
        ("nosuchscheme://x/a.jsonl", "use a local path or a URI"),
    ],
)
def test_a_place_that_leads_nowhere_is_named_by_its_key(
    make: Callable[..., Any], place: str, what: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError) as error:
        pool_files(make(pool=[{"path": "other/*.jsonl"}, {"path": place}]))
    assert str(error.value).startswith("pool.1.path: ")
    assert what in str(error.value)
    for split in ("validation", "heldout"):
        target = {"validation": "other/a.jsonl", split: place}
        with pytest.raises(InputError) as error:
            target_files(make(targets={"t": target}), "t")
        assert str(error.value).startswith(f"targets.t.{split}: ")
        assert what in str(error.value)


def test_files_are_the_same_after_a_move_and_others_after_a_change(make: Callable[..., Any], tmp_path: Path) -> None:
    before = files_identity(pool_files(make()))
    shutil.move(tmp_path / "pool", tmp_path / "elsewhere")
    moved = make(pool=[{"path": "elsewhere/rows.jsonl"}])
    shutil.rmtree(tmp_path / "pool")
    assert files_identity(pool_files(moved)) == before
    with (tmp_path / "elsewhere/rows.jsonl").open("a") as stream:
        stream.write("\n")
    assert files_identity(pool_files(moved)) != before


@pytest.mark.parametrize(
    "change",
    [{"source": "x"}, {"format": "messages"}, {"rows_per_file": 2}, {"path": "hf:owner/name", "split": "test"}],
)
def test_how_a_file_is_read_is_part_of_what_it_is(make: Callable[..., Any], change: dict[str, Any]) -> None:
    plain = {"path": change.get("path", "other/a.jsonl")}
    plain_files, changed = (pool_files(make(pool=[source])) for source in (plain, {**plain, **change}))
    assert files_identity(plain_files) != files_identity(changed)


def test_a_saved_dataset_is_its_rows(make: Callable[..., Any], tmp_path: Path) -> None:
    from datasets import Dataset

    def identity(name: str, rows: list[dict[str, Any]]) -> Any:
        Dataset.from_list(rows).save_to_disk(tmp_path / name / "saved")
        return files_identity(pool_files(make(pool=[{"path": f"{name}/saved"}])))

    assert identity("x", [ROW]) != identity("y", [ROW, ROW])
