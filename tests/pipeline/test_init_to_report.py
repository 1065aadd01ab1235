"""From a user's files to a report, without an editor: `instsel init`, then `instsel run`."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from instsel.cli.app import app
from instsel.config.file import parse_study
from instsel.console import Terminal
from instsel.io.store import Folder
from instsel.pipeline.runner import run_study

pytestmark = pytest.mark.usefixtures("ray_session")

SETTINGS = [
    "selection.budget=0.25",
    "data.max_length=128",
    "warmup={share: 0.25, epochs: 1, batch_size: 4, micro_batch_size: 2}",
    "features={dim: 64}",
    "finetune={epochs: 1, batch_size: 4, micro_batch_size: 2}",
]
FRUIT = ("apples", "pears", "plums", "figs")


def rows(count: int = 32) -> list[dict[str, str]]:
    return [
        {
            "instruction": f"Add {number} {FRUIT[number % 4]} to {number * 7 % 31}.",
            "output": f"{number * 8} in the basket.",
        }
        for number in range(count)
    ]


def json_array(folder: Path) -> list[str]:
    (folder / "pool.json").write_text(json.dumps(rows(), indent=2))
    return [str(folder / "pool.json")]


def csv_target(folder: Path) -> list[str]:
    for name, first in (("mine.csv", 0), ("held.csv", 50)):
        with (folder / name).open("w", newline="") as file:
            questions = ([f"How many {fruit} of {first + n}?", f"{first + n}"] for n, fruit in enumerate(FRUIT))
            csv.writer(file).writerows([["question", "answer"], *questions])
    return [*json_array(folder), "--target", f"mine={folder / 'mine.csv'},{folder / 'held.csv'}"]


def prompt_completion(folder: Path) -> list[str]:
    table = [{"prompt": row["instruction"], "completion": row["output"]} for row in rows()]
    pq.write_table(pa.Table.from_pylist(table), folder / "pool.parquet")
    return [str(folder / "pool.parquet")]


def dataset_dict(folder: Path) -> list[str]:
    from datasets import Dataset, DatasetDict

    parts = {"train": Dataset.from_list(rows()), "test": Dataset.from_list(rows(3))}
    DatasetDict(parts).save_to_disk(str(folder / "saved"))
    return [str(folder / "saved")]


def glob_over_folders(folder: Path) -> list[str]:
    for name, part in (("one", rows()[:16]), ("two", rows()[16:])):
        (folder / name / "deep").mkdir(parents=True)
        (folder / name / "deep" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return [str(folder / "**" / "*.jsonl")]


@pytest.mark.long
@pytest.mark.parametrize("kind", [json_array, csv_target, prompt_completion, dataset_dict, glob_over_folders])
def test_files_of_each_kind_become_a_report(
    kind: Callable[[Path], list[str]], tmp_path: Path, tiny_model: Path
) -> None:
    study, out = tmp_path / "study.yaml", tmp_path / "out"
    arguments = ["init", *kind(tmp_path), "--out", str(study), "--model", str(tiny_model)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    settings = [part for setting in [*SETTINGS, f"out={out}"] for part in ("--set", setting)]
    result = CliRunner().invoke(app, ["run", str(study), *settings])
    assert result.exit_code == 0, result.output
    assert "bids" in result.output
    assert (out / "report" / "report.html").is_file()


def test_a_study_needs_no_target(tiny_study: Callable[..., dict[str, Any]]) -> None:
    raw = tiny_study(targets={}, selection={"budget": 4, "methods": ["random", "longest"]})
    run_study(parse_study(raw, "study.yaml"), Terminal())
    folder = Folder.at(raw["out"])
    assert (folder / "report").exists("report.html")
    assert len((folder / "select" / "longest").read_table("selected.parquet")) == 4
