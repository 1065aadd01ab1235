"""The files of a study: found in order, named by their key where they are not there, told apart by content."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsel.config.file import parse_study
from instsel.data import sources
from instsel.data.sources import check_files, files_identity, pool_files, target_files
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
        ("nothing", "nothing: a folder without data files"),
        ("folders", "it has data in the folders a, b; name one with `config`"),
        (
            "owner/name",
            "does not exist; correct the path, or write hf:owner/name for a dataset of the Hugging Face hub",
        ),
        ("gone.jsonl", "gone.jsonl is a link to nowhere, which does not exist; mend or remove the link"),
        ("https://example.com/a.jsonl", "is a web address, which is not read; download it"),
        ("empty.jsonl", "is empty; remove it or correct the path"),
        ("nosuchscheme://x/a.jsonl", "use a local path or a URI"),
    ],
)
def test_a_place_that_leads_nowhere_is_named_by_its_key(
    make: Callable[..., Any], place: str, what: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "nothing").mkdir()
    (tmp_path / "gone.jsonl").symlink_to("nowhere")
    for name in ("a", "b"):
        (tmp_path / "folders" / name).mkdir(parents=True)
        (tmp_path / "folders" / name / "rows.jsonl").write_text("{}")
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
    [
        {"source": "x"},
        {"format": "messages"},
        {"rows_per_file": 2},
        {"split": "test"},
        {"path": "hf:owner/name", "split": "test"},
        {"path": "hf:owner/name", "config": "main"},
        {"path": "hf:owner/name", "revision": "v1"},
    ],
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


def test_fault_09_a_saved_dataset_is_told_by_its_content_and_not_by_its_state(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    from datasets import Dataset

    Dataset.from_list([ROW] * 9).save_to_disk(tmp_path / "first/saved")
    study = make(pool=[{"path": "first/saved"}])
    before = files_identity(pool_files(study))
    state = tmp_path / "first/saved/state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "_fingerprint": "another"}))
    assert files_identity(pool_files(study)) == before
    (arrow,) = (tmp_path / "first/saved").glob("*.arrow")
    content = bytearray(arrow.read_bytes())
    content[len(content) // 2] ^= 1
    arrow.write_bytes(content)
    assert files_identity(pool_files(study)) != before


def test_keys_of_an_entry_are_those_of_its_files(make: Callable[..., Any]) -> None:
    (file,) = pool_files(make(pool=[{"path": "hf:owner/name", "config": "main", "revision": "v1", "split": "test"}]))
    assert (file.config, file.revision, file.split, file.key) == ("main", "v1", "test", "pool.0.path")
    study = make(targets={"t": {"validation": "other/a.jsonl"}})
    (file,) = target_files(study, "t")["validation"]
    assert (file.split, file.key) == (None, "targets.t.validation")


def test_a_target_is_a_folder_of_one_split(make: Callable[..., Any], tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_list([ROW]), "test": Dataset.from_list([ROW])}).save_to_disk(tmp_path / "both")
    study = make(targets={"t": {"validation": "both/test", "heldout": "both/train"}})
    assert [file.uri for files in target_files(study, "t").values() for file in files] == [
        f"{tmp_path}/both/test",
        f"{tmp_path}/both/train",
    ]
    with pytest.raises(
        InputError, match=r"^targets\.t\.validation: .*both: it holds the splits train, test; give the pa"
    ):
        target_files(make(targets={"t": {"validation": "both"}}), "t")


def test_all_that_is_wrong_with_files_is_listed_with_its_key(make: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "page.jsonl").write_text("<!DOCTYPE html>")
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "many").mkdir()
    for number in range(25):
        (tmp_path / f"many/{number:02d}.jsonl").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "many/good.jsonl").write_text("{}\n")
    assert check_files(make()) == []
    study = make(
        pool=[{"path": "other/*.jsonl"}, {"path": "none.jsonl"}, {"path": "page.jsonl"}, {"path": "many"}],
        targets={
            "t": {"validation": "empty.json", "heldout": "other/c.jsonl"},
            "u": {"validation": "other/a.jsonl", "test": "page.jsonl", "scoring": "exact_match"},
        },
        guards={"g": {"test": "other/d.jsonl", "scoring": "exact_match"}},
    )
    page = f"{tmp_path}/page.jsonl: a web page, not the file; download the file itself"
    problems = check_files(study)
    assert problems[0] == f"pool.1.path: file {tmp_path}/none.jsonl does not exist; correct the path"
    assert problems[1].startswith(f"pool.2.path: {page}")
    assert (
        problems[2] == f"pool.3.path: {tmp_path}/many/00.jsonl: a Git LFS pointer, not the file; fetch it: git lfs pull"
    )
    assert problems[12] == "pool.3.path: 15 more of its files cannot be used"
    assert problems[13:15] == [
        f"targets.t.validation: {tmp_path}/empty.json holds no row; remove it or correct the path",
        f"targets.t.heldout: file {tmp_path}/other/c.jsonl does not exist; correct the path",
    ]
    assert problems[15].startswith(f"targets.u.test: {page}")
    assert problems[16] == f"guards.g.test: file {tmp_path}/other/d.jsonl does not exist; correct the path"
    assert len(problems) == 17


def test_an_entry_may_be_empty_where_the_study_says_so(make: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "array.json").write_text("[]")
    for name in ("empty.jsonl", "array.json"):
        assert len(check_files(make(pool=[{"path": name}]))) == 1
        assert check_files(make(pool=[{"path": name, "allow_empty": True}])) == []
    assert len(check_files(make(pool=[{"path": "none.jsonl", "allow_empty": True}]))) == 1


def test_the_hub_is_asked_before_the_study_starts(make: Callable[..., Any]) -> None:
    (problem,) = check_files(make(pool=[{"path": "hf:owner/name"}]))
    assert problem.startswith("pool.0.path: hf:owner/name: the hub cannot be reached (")


def test_a_target_names_splits_and_configurations_of_its_files(make: Callable[..., Any], tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_list([ROW]), "test": Dataset.from_list([ROW])}).save_to_disk(tmp_path / "both")
    target = {"validation": "both", "heldout": "both", "split": {"validation": "train", "heldout": "test"}}
    files = target_files(make(targets={"t": target}), "t")
    assert [file.uri for of_split in files.values() for file in of_split] == [
        f"{tmp_path}/both/train",
        f"{tmp_path}/both/test",
    ]
    hub = {"validation": "hf:owner/name", "config": "main", "split": "dev", "revision": "v1"}
    (file,) = target_files(make(targets={"t": hub}), "t")["validation"]
    assert (file.split, file.config, file.revision) == ("dev", "main", "v1")
    others = ({"config": "other"}, {"split": "test"}, {"revision": "v2"})
    identities = [files_identity(target_files(make(targets={"t": {**hub, **o}}), "t")["validation"]) for o in others]
    assert files_identity([file]) not in identities
    guard = {"test": "both", "split": "test", "scoring": "exact_match"}
    (file,) = sources.test_files(make(guards={"g": guard}), "g")
    assert file.uri == f"{tmp_path}/both/test"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"validation": "other/a.jsonl", "split": {"heldout": "test"}}, "`split` names heldout, which is not given"),
        ({"task": "gsm8k", "config": "main"}, "`config` is of files, and there are none; remove it"),
    ],
)
def test_a_split_of_a_file_that_is_not_given_is_an_error(make: Callable[..., Any], target: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(targets={"t": target})


def test_a_split_of_a_targets_file_that_has_none_is_told(make: Callable[..., Any], tmp_path: Path) -> None:
    (problem,) = check_files(make(targets={"t": {"validation": "other/a.jsonl", "split": "test"}}))
    assert problem.startswith("targets.t.validation: ") and problem.endswith("not divided into splits; remove `split`")
