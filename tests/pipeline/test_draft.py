"""`instsel init` and `instsel check`: from files to a study file, and what it would run on."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from instsel.cli.app import app
from instsel.config.file import load_study
from instsel.data.readers import SourceFile, read_chunks
from instsel.pipeline import draft
from instsel.pipeline.draft import draft_study


def row(number: int) -> dict[str, Any]:
    return {"instruction": f"What is {number} + {number}?", "input": "", "output": f"{2 * number}.", "topic": "sums"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of three kinds, one without a usable row."""
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / "a.json").write_text(json.dumps([row(number) for number in range(60)]))
    (pool / "b.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in range(60, 100)) + "{\n")
    (pool / "c.csv").write_text("ask,reply\nWhy?,Because.\n")
    return tmp_path


def command(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_files_become_a_study_file_with_a_target_held_out(folder: Path, tiny_model: Path) -> None:
    out = folder / "mine.yaml"
    result = command("init", str(folder / "pool"), "--out", str(out), "--model", str(tiny_model))
    assert result.exit_code == 0, result.output
    assert "a.json: 60 rows" in result.output and "b.jsonl: 41 rows; rejected: 1 x broken JSON" in result.output
    config = load_study(out)
    assert [Path(entry.path).name for entry in config.pool] == ["a.json", "b.jsonl"]
    assert (
        "# left out: " in out.read_text() and "no prompt with an answer among its keys (ask, reply)" in out.read_text()
    )
    assert config.selection.budget == 0.2
    target = config.targets["more_of_the_same"]
    held = [
        line
        for uri in (target.validation, target.heldout)
        for _, part in read_chunks(SourceFile(str(uri)), 9)
        for line in part
    ]
    # 5 % of 100 usable rows, different ones.
    assert len(set(held)) == 5 and all(json.loads(line)["topic"] == "sums" for line in held)


def test_the_rows_held_out_do_not_depend_on_the_order_of_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [str(folder / "pool" / name) for name in ("a.json", "b.jsonl")]
    draft_study(files, [], folder / "one.yaml", "m")
    draft_study(files[::-1], [], folder / "two.yaml", "m")
    monkeypatch.setattr(draft, "MOST_HELD_OUT", 4)
    draft_study(files, [], folder / "few.yaml", "m")

    def held(name: str) -> list[str]:
        parts = (folder / f"{name}-heldout" / f"{split}.jsonl" for split in ("validation", "heldout"))
        return [json.loads(line)["output"] for part in parts for line in part.read_text().splitlines()]

    assert held("one") == held("two")
    assert set(held("few")) < set(held("one")) and len(held("few")) == 4


def test_targets_are_benchmarks_or_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    out = folder / "mine.yaml"
    targets = ["gsm8k", "mine=pool/a.json", "ours=pool/a.json,pool/b.jsonl"]
    draft_study([str(folder / "pool/b.jsonl")], targets, out, "m")
    config = load_study(out)
    assert config.targets["gsm8k"].task == "gsm8k"
    assert str(config.targets["mine"].validation).endswith("pool/a.json") and config.targets["mine"].heldout is None
    assert str(config.targets["ours"].heldout).endswith("pool/b.jsonl")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["pool/c.csv"], "no file has a usable row:\n  "),
        (["pool/missing.jsonl"], "missing.jsonl"),
        (["pool", "--target", "t=pool/missing.jsonl"], "--target t: file "),
        (["pool", "--target", "t=pool/a.json,pool/page.jsonl"], "pool/page.jsonl: a web page, not the file"),
        (["pool", "--out", "pool/a.json"], "pool/a.json exists; remove it, or give another file by --out"),
    ],
)
def test_what_cannot_be_drafted_is_told(
    arguments: list[str], why: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    if "pool/page.jsonl" in str(arguments):
        (folder / "pool/page.jsonl").write_text("<html>")
        arguments = ["pool/a.json", *arguments[1:]]
    result = command("init", *arguments)
    assert result.exit_code == 2
    assert why in result.output
    assert not (folder / "study.yaml").exists()


def test_a_study_file_is_looked_at_before_it_runs(folder: Path, tiny_model: Path) -> None:
    out = folder / "mine.yaml"
    draft_study([str(folder / "pool")], [], out, str(tiny_model))
    result = command("check", str(out), "--show", "2")
    assert result.exit_code == 0, result.output
    assert "1 x broken JSON at column" in result.output
    assert "pool.0: keys that no training sees, kept in selections: topic (60)" in result.output
    assert "[[0.<|im_end|>]]" in result.output, "the first row of the first file, its answer in brackets"
    assert "[[120.<|im_end|>]]" in result.output, "and that of the second"


def test_check_as_json_has_files_and_reasons(folder: Path, tiny_model: Path) -> None:
    out = folder / "mine.yaml"
    draft_study([str(folder / "pool")], [], out, str(tiny_model))
    checked = json.loads(command("check", str(out), "--json").stdout)
    counts = {Path(each["uri"]).name: (each["rows"], each["usable"]) for each in checked["files"]}
    assert counts["a.json"] == (60, 60) and counts["b.jsonl"] == (41, 40)
    assert checked["problems"] == []


def test_check_names_all_that_is_wrong(folder: Path, tiny_model: Path) -> None:
    out = folder / "mine.yaml"
    draft_study([str(folder / "pool")], [], out, str(tiny_model))
    with (folder / "cut.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["ask", "reply"], ["Why?", "Because."]])
    settings = [f"pool.0.path={folder / 'cut.csv'}", f"pool.1.path={folder / 'missing.jsonl'}"]
    result = command("check", str(out), *(part for setting in settings for part in ("--set", setting)))
    assert result.exit_code == 2
    assert "missing.jsonl" in result.output
    layout = "pool.0.columns={prompt: ask, answer: reply}"
    result = command("check", str(out), "--set", settings[0], "--set", layout)
    assert result.exit_code == 0, result.output


def test_check_reads_an_entry_as_the_run_does(folder: Path, tiny_model: Path) -> None:
    """An entry that may be empty is, entries keep their numbers in errors, and test rows are looked at."""
    out = folder / "mine.yaml"
    draft_study([str(folder / "pool")], [], out, str(tiny_model))
    (folder / "bad.jsonl").write_text(json.dumps({"ask": "Why?"}) + "\n")
    (folder / "page.jsonl").write_text("<html>")
    bad = f"pool.1.path={folder / 'bad.jsonl'}"
    result = command("check", str(out), "--set", bad)
    assert result.exit_code == 2 and "pool.1: none of the rows looked at is usable" in result.output
    result = command("check", str(out), "--set", bad, "--set", "pool.1.allow_empty=true")
    assert result.exit_code == 0, result.output
    guard = f"guards={{g: {{test: {folder / 'gone.jsonl'}, scoring: exact_match}}}}"
    settings = (f"pool.0.path={folder / 'page.jsonl'}", bad, guard)
    result = command("check", str(out), *(part for setting in settings for part in ("--set", setting)))
    assert "3 to mend" in result.output
    assert all(key in result.output for key in ("pool.0.path: ", "pool.1: none of", "guards.g.test: ")), result.output


def test_check_names_a_few_of_many_keys(folder: Path, tiny_model: Path) -> None:
    out = folder / "mine.yaml"
    draft_study([str(folder / "pool")], [], out, str(tiny_model))
    wide = {**row(1), **{f"column{number:04}": number for number in range(2000)}}
    (folder / "wide.jsonl").write_text(json.dumps(wide) + "\n")
    result = command("check", str(out), "--set", f"pool.0.path={folder / 'wide.jsonl'}")
    assert result.exit_code == 0, result.output
    assert "column0000 (1)" in result.output and "1,981 more" in result.output and len(result.output) < 3_000


def test_init_leaves_out_an_empty_file(folder: Path) -> None:
    (folder / "pool/empty.jsonl").touch()
    result = command("init", str(folder / "pool"), "--out", str(folder / "mine.yaml"), "--model", "m")
    assert result.exit_code == 0, result.output
    assert "empty.jsonl: 0 rows" in result.output
    assert "# left out: " in (folder / "mine.yaml").read_text()


def test_a_file_with_blank_lines_is_estimated_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft, "READ_ROWS", 50)
    (folder / "blank.jsonl").write_text("".join(json.dumps(row(number)) + "\n\n" for number in range(200)))
    (each,) = draft_study([str(folder / "blank.jsonl")], ["gsm8k"], folder / "mine.yaml", "m")
    assert not each.whole and 150 < each.rows < 250
