"""Folders as data: saved datasets, their splits, clones from the hub, and plain files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsel.data.folders import folder_files, has_data, is_dataset
from instsel.data.splits import choose_split, split_of
from instsel.errors import InputError

Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A folder `data` with these files, and perhaps a dataset card."""

    def make(*names: str, card: str | None = None) -> str:
        for name in names:
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        if card is not None:
            (tmp_path / "data/README.md").write_text(card)
        return str(tmp_path / "data")

    return make


def listed(uri: str, split: str | None = "train", config: str | None = None) -> tuple[list[str], str | None]:
    files = folder_files(uri, split, config)
    return [each.removeprefix(f"{uri}/") for each in files.uris], files.name


@pytest.mark.parametrize(
    ("names", "expected", "name"),
    [
        (["b.jsonl", "a.json.gz", "c.csv", "d.tsv", "e.parquet", "f.arrow", "g.ndjson.zst"], None, None),
        (["sub/deep/a.jsonl", "b.jsonl"], ["b.jsonl", "sub/deep/a.jsonl"], None),
        (["a.jsonl", "LICENSE", "notes.md", "a.txt", "dataset_infos.json", ".a.jsonl", "._a.jsonl"], ["a.jsonl"], None),
        (["a.jsonl", ".ipynb_checkpoints/a.jsonl"], ["a.jsonl"], None),
        (["train.jsonl", "test.jsonl"], ["train.jsonl"], "data"),
        (["train/a.jsonl", "test/a.jsonl"], ["train/a.jsonl"], "data"),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], None, "data"),
        (["alpaca_train_1.json", "alpaca_train_2.json", "alpaca_dev.json"], None, "data"),
        (["sub/a.jsonl", "sub/b.jsonl"], ["sub/a.jsonl", "sub/b.jsonl"], None),
        (["training.jsonl", "trainees/train.jsonl"], ["trainees/train.jsonl", "training.jsonl"], "data"),
    ],
)
def test_files_of_a_folder(names: list[str], expected: list[str] | None, name: str | None, make: Make) -> None:
    uri = make(*names)
    assert listed(uri) == (expected or sorted(each for each in names if "dev" not in each), name)
    assert listed(f"{uri}/")[1] == name
    assert has_data(uri)
    assert not is_dataset(uri)


@pytest.mark.parametrize(
    ("names", "split", "config", "expected"),
    [
        (["train.jsonl", "test.jsonl"], "test", None, ["test.jsonl"]),
        (["train.jsonl", "val.jsonl"], "validation", None, ["val.jsonl"]),
        (["train.jsonl", "val.jsonl"], "dev", None, ["val.jsonl"]),
        (["data/train_sft-00000-of-00001.parquet", "data/test_sft-00000-of-00001.parquet"], "test_sft", None, None),
        (["main/train.jsonl", "socratic/train.jsonl"], "train", "main", ["main/train.jsonl"]),
        (["main/train.jsonl", "main/test.jsonl", "b/c.jsonl"], "test", "main", ["main/test.jsonl"]),
        (["test.jsonl"], None, None, ["test.jsonl"]),
        (["a.jsonl", "b.jsonl"], None, None, ["a.jsonl", "b.jsonl"]),
    ],
)
def test_splits_and_folders_are_named(
    names: list[str], split: str | None, config: str | None, expected: list[str] | None, make: Make
) -> None:
    assert listed(make(*names), split, config)[0] == (expected or ["data/test_sft-00000-of-00001.parquet"])


@pytest.mark.parametrize(
    ("names", "split", "config", "message"),
    [
        (
            [],
            "train",
            None,
            "a folder without data files (.jsonl, .ndjson, .jsonlines, .json, .csv, .tsv, .parquet, .arrow",
        ),
        (["notes.md"], "train", None, "a folder without data files"),
        (
            ["main/a.jsonl", "socratic/a.jsonl"],
            "train",
            None,
            "it has data in the folders main, socratic; name one with",
        ),
        (["main/a.jsonl"], "train", "mian", "it has no configuration `mian`, but the folders main; name one of them"),
        (["a.jsonl"], "train", "main", "it has no configuration `main`; remove `config`"),
        (["train.jsonl", "test.jsonl"], "tset", None, "it has no split `tset`, but test, train; name one of them with"),
        (["test.jsonl"], "train", None, "it has no split `train`, but test; name one of them with `split`"),
        (["train.jsonl", "test.jsonl"], None, None, "it holds the splits test, train; give the path of one of them"),
        (["a.jsonl"], "test", None, "it has no split `test`, as no file in it names a split; remove `split`"),
        (["a.jsonl", "test.jsonl"], "train", None, "some files in it name a split (test), and a.jsonl does not; give"),
    ],
)
def test_what_is_not_clear_is_an_error(
    names: list[str], split: str | None, config: str | None, message: str, make: Make, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError) as error:
        folder_files(make(*names), split, config)
    assert str(error.value).startswith(message)


def card(configs: str) -> str:
    return f"---\nlicense: mit\nconfigs:\n{configs}---\n# Rows of ours\n"


MAIN = """\
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
"""
SOCRATIC = """\
- config_name: socratic
  data_files:
  - split: train
    path: ["socratic/a.jsonl", "socratic/b.jsonl"]
"""
FILES = ["main/train-1.jsonl", "main/train-2.jsonl", "main/test-1.jsonl", "socratic/a.jsonl", "socratic/b.jsonl"]


@pytest.mark.parametrize(
    ("configs", "split", "config", "expected"),
    [
        (MAIN, "train", None, ["main/train-1.jsonl", "main/train-2.jsonl"]),
        (MAIN, "test", "main", ["main/test-1.jsonl"]),
        (MAIN + SOCRATIC, "train", "socratic", ["socratic/a.jsonl", "socratic/b.jsonl"]),
        (MAIN + SOCRATIC + "  default: true\n", "train", None, ["socratic/a.jsonl", "socratic/b.jsonl"]),
        (MAIN.replace("main\n", "default\n") + SOCRATIC, "test", None, ["main/test-1.jsonl"]),
        ("- config_name: x\n  data_files: socratic/*.jsonl\n", "train", None, ["socratic/a.jsonl", "socratic/b.jsonl"]),
        ("- config_name: x\n  data_files: [socratic/b.jsonl]\n", "train", None, ["socratic/b.jsonl"]),
        ("- data_files:\n    dev: socratic/a.jsonl\n", "validation", None, ["socratic/a.jsonl"]),
        ("- config_name: x\n  data_dir: socratic\n", "train", None, ["socratic/a.jsonl", "socratic/b.jsonl"]),
        ("- config_name: x\n  data_dir: main\n  data_files: test-*\n", "train", None, ["main/test-1.jsonl"]),
    ],
)
def test_a_clone_from_the_hub_is_what_its_card_lists(
    configs: str, split: str, config: str | None, expected: list[str], make: Make
) -> None:
    uri = make(*FILES, card=card(configs))
    names = [each.removeprefix(f"{uri}/") for each in folder_files(uri, split, config).uris]
    assert names == expected


@pytest.mark.parametrize(
    ("configs", "split", "config", "message"),
    [
        (MAIN + SOCRATIC, "train", None, "it has the configurations main, socratic; name one with `config`"),
        (MAIN + SOCRATIC, "train", "mian", "it has no configuration `mian`, but main, socratic; name one of them with"),
        (MAIN, "dev", None, "it has no split `dev`, but train, test; name one of them with `split`"),
        ("- data_files: none/*.jsonl\n", "train", None, "no file matches none/*.jsonl, which its README.md lists"),
        (
            "- data_files: [1]\n",
            "train",
            None,
            "its README.md lists data files in an unknown way; give a file or a glob",
        ),
    ],
)
def test_a_card_that_does_not_decide_is_an_error(
    configs: str, split: str, config: str | None, message: str, make: Make
) -> None:
    with pytest.raises(InputError) as error:
        folder_files(make(*FILES, card=card(configs)), split, config)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "text", ["# No front matter\n", "---\nlicense: mit\n---\n", "---\n- a\n---\n", "---\nconfigs: x\n---\n"]
)
def test_a_card_without_configurations_is_passed_over(text: str, make: Make) -> None:
    assert listed(make("a.jsonl", card=text)) == (["a.jsonl"], None)


def test_a_card_that_is_no_yaml_is_named(make: Make) -> None:
    with pytest.raises(InputError, match=r"data/README\.md: "):
        folder_files(make("a.jsonl", card="---\na: [\n---\n"), "train", None)


def test_saved_datasets_and_their_splits(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows: list[dict[str, Any]] = [{"a": 1}]
    DatasetDict({"train": Dataset.from_list(rows), "test": Dataset.from_list(rows)}).save_to_disk(tmp_path / "both")
    both = str(tmp_path / "both")
    assert listed(both) == (["train"], "both")
    assert listed(both, "test") == (["test"], "both")
    assert folder_files(f"{both}/test/", None, None).uris == [f"{both}/test"]
    assert is_dataset(both)
    assert is_dataset(f"{both}/test")
    for split, message in (
        ("dev", "no split `dev`, but train, test"),
        (None, "it holds the splits train, test; give the"),
    ):
        with pytest.raises(InputError, match=message):
            folder_files(both, split, None)
    (tmp_path / "both/dataset_dict.json").write_text("[]")
    with pytest.raises(InputError, match=r"both/dataset_dict\.json does not list the splits; save the dataset again"):
        folder_files(both, "train", None)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("data/dev/a.jsonl", "validation"),
        ("alpaca-eval_2.json", "test"),
        ("TRAIN/a.jsonl", "train"),
        ("data/train_sft-00000-of-00001.parquet", "train_sft"),
        ("data/validation-00000-of-00001.parquet", "validation"),
        ("contest.jsonl", None),
        ("trainees.jsonl", None),
        ("data-00000-of-00001.arrow", None),
    ],
)
def test_paths_name_splits_by_their_words(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_the_split_of_that_name_comes_before_another_word_for_it() -> None:
    assert choose_split(["dev", "validation"], "validation") == "validation"
    assert choose_split(["dev", "val"], "validation") == "dev"
    assert choose_split(["only"], None) == "only"
