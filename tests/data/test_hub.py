"""Datasets of the hub: what is asked of it, and what its errors say."""

import json
from pathlib import Path
from typing import Any

import pytest

from instsel.data.hub import check_hub, hub_rows, open_hub
from instsel.data.readers import source_files
from instsel.errors import InputError

CARD = """---
configs:
- config_name: main
  data_files: main/*.jsonl
- config_name: socratic
  data_files: socratic/*.jsonl
---
"""


@pytest.fixture
def clone(tmp_path: Path) -> str:
    """A dataset of two configurations, which the library reads from a folder as it does from the hub."""
    for name in ("main", "socratic"):
        (tmp_path / "clone" / name).mkdir(parents=True)
        (tmp_path / "clone" / name / "train.jsonl").write_text(json.dumps({"q": name}) + "\n")
    (tmp_path / "clone/README.md").write_text(CARD)
    return str(tmp_path / "clone")


def test_a_configuration_is_read(clone: str) -> None:
    for name in ("main", "socratic"):
        assert [json.loads(row) for row in hub_rows(clone, "train", name, None)] == [{"q": name}]


@pytest.mark.parametrize(
    ("config", "split", "message"),
    [
        (None, "train", "Config name is missing. .* available configs: ['main', 'socratic']; name one with `config`"),
        ("mian", "train", "BuilderConfig 'mian' not found. Available: ['main', 'socratic']; name one with `config`"),
        ("main", "trian", "Bad split: trian. Available splits: ['train']; name one with `split`"),
    ],
)
def test_what_there_is_not_lists_what_there_is(clone: str, config: str | None, split: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        open_hub(clone, split, config, None)
    start, _, end = message.partition(" .* ")
    assert str(error.value).startswith(f"hf:{clone}: {start if end else message}")
    assert str(error.value).endswith(end or message)
    assert "Example" not in str(error.value)


def test_a_hub_that_is_away_is_told_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "hf:owner/name: the hub cannot be reached (.*); run `hf download owner/name --repo-type dataset"
    for check in (open_hub, check_hub):
        with pytest.raises(InputError) as error:
            check("owner/name", "train", None, None)
        assert str(error.value).startswith(message.partition(" (")[0])
        assert message.partition("; ")[2] in str(error.value)

    def refuse(self: Any, name: str, **options: Any) -> None:
        assert options == {"revision": "v1", "timeout": 10}
        # The client of HTTP has errors of its own.
        raise Exception("[Errno -2] Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", refuse)
    with pytest.raises(InputError, match=r"the hub cannot be reached \(\[Errno -2\] Name or service not known\); run"):
        check_hub("owner/name", "train", None, "v1")


def test_a_dataset_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets.exceptions import DatasetNotFoundError

    def refuse(*_: Any, **__: Any) -> None:
        raise DatasetNotFoundError("Dataset 'owner/nmae' doesn't exist on the Hub or cannot be accessed.")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(
        InputError, match="hf:owner/nmae: no such dataset on the hub, or a private or gated one; correct"
    ):
        open_hub("owner/nmae", "train", None, None)


def test_a_dataset_that_brings_a_script_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/rows.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match="Dataset scripts are no longer supported.*; run `hf download"):
        open_hub(str(tmp_path / "rows"), "train", None, None)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("uri", "written"),
    [
        ("hf:a/b/data/train.parquet", "a/b"),
        ("hf://datasets/a/b/data/train.parquet", "a/b"),
        ("hf://a/b", "a/b"),
        ("hf:", "OWNER/NAME"),
    ],
)
def test_a_path_in_a_dataset_is_no_name_of_one(uri: str, written: str) -> None:
    with pytest.raises(InputError, match=f"^{uri} is no name of a dataset; write hf:{written}, and `config` and"):
        source_files(uri)


def test_a_slash_at_the_end_of_a_name_is_passed_over() -> None:
    assert [file.uri for file in source_files("hf:owner/name/")] == ["hf:owner/name"]
