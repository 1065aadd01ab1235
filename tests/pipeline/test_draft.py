"""`instsel init` and `instsel check`: from files to a study file, and what it would run on."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from instsel.cli.app import app
from instsel.config.file import load_study
from instsel.data.readers import SourceFile, read_chunks
from instsel.pipeline import draft, draft_files
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
    for module in (draft, draft_files):
        monkeypatch.setattr(module, "MOST_HELD_OUT", 4)
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
        (["pool", "--target", "t=pool/a.json,pool/page.jsonl"], "pool/page.jsonl: a web page, not the file"),
        (["pool", "--out", "pool/a.json"], "pool/a.json exists; remove it, or give another file by --out"),
        (["pool/c.csv"], "name the columns by --column prompt=COLUMN --column answer=COLUMN"),
        (["pool/few.jsonl"], "the files have 19 usable rows, too few to hold some out as a target; give one by"),
        (["owner/name"], "owner/name does not exist; correct the path, or write hf:owner/name"),
        (["pool/page.html"], "a web page"),
        (["pool", "--target", "pool/a.json"], "--target pool/a.json: examples need a name; write NAME=pool/a.json"),
        (["pool", "--target", "a b=pool/a.json"], "--target a b=pool/a.json: name 'a b' is not usable"),
        (["pool", "--target", "mine="], "--target mine=: no file is named; write mine=FILE"),
        (["pool", "--target", "mine=none.jsonl"], "--target mine=none.jsonl: file "),
        (["pool", "--target", "mine=pool/c.csv"], "--target mine=pool/c.csv: no usable row; "),
        (["pool", "--target", "m=pool/a.json", "--target", "m=pool/b.jsonl"], "two targets are called 'm'"),
        (["pool", "--target", "mean=pool/a.json"], "a target cannot be called 'mean'"),
        (["pool", "--target", "gsm8kk"], "--target gsm8kk: lm-eval has no task 'gsm8kk'; did you mean gsm8k"),
        (["pool/c.csv", "--column", "promt=ask"], "--column promt=ask: write PART=COLUMN, such as prompt=ask; did you"),
        (["pool/c.csv", "--column", "prompt"], "--column prompt: write PART=COLUMN"),
    ],
)
def test_what_cannot_be_drafted_is_told(
    arguments: list[str], why: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "pool/few.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in range(200, 219)))
    for name in ("pool/page.html", "pool/page.jsonl"):
        (folder / name).write_text("<!DOCTYPE html><html></html>")
    result = command("init", *arguments)
    assert result.exit_code == 2, result.output
    assert why in result.output
    assert not (folder / "study.yaml").exists()


def test_files_of_a_folder_that_cannot_be_read_are_left_out_and_named(folder: Path) -> None:
    pool = folder / "pool"
    (pool / "d.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n")
    (pool / "e.jsonl").write_text("")
    (pool / "f.jsonl.gz").write_bytes(gzip.compress(bytes(json.dumps(row(1)), "utf-8") * 9)[:-9])
    (pool / "README.md").write_text("# Rows\n")
    result = command("init", str(pool), "--out", str(folder / "mine.yaml"), "--model", "m")
    assert result.exit_code == 0, result.output
    for told in (
        "d.parquet: left out: a Git LFS pointer",
        "e.jsonl: left out: it holds no row",
        "f.jsonl.gz: left out:",
    ):
        assert told in result.output
    text = (folder / "mine.yaml").read_text()
    assert [Path(entry.path).name for entry in load_study(folder / "mine.yaml").pool] == ["a.json", "b.jsonl"]
    assert "d.parquet, left out: a Git LFS pointer" in text


def test_files_of_another_split_are_named(folder: Path) -> None:
    splits = folder / "splits"
    splits.mkdir()
    for name in ("train", "test"):
        (splits / f"{name}.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in range(30)))
    train, test = draft_study([str(splits)], [], folder / "mine.yaml", "m")
    assert (train.usable, test.usable) == (30, 0)
    assert "test.jsonl: left out: of another split" in str(test)


def test_what_was_drafted_is_no_part_of_the_next_pool(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert command("init", "--model", "m").exit_code == 0
    study = folder / "runs" / "study"
    (study / "select").mkdir(parents=True)
    for name in ("study.json", "graph.json", "select/selected.jsonl"):
        (study / name).write_text(json.dumps(row(1)))
    assert command("init", "--model", "m", "--out", "second.yaml").exit_code == 0
    assert load_study("second.yaml").pool == load_study("study.yaml").pool
    (folder / "study.yaml").unlink()
    result = command("init", "pool", "--model", "m")
    assert result.exit_code == 2
    assert "study-heldout exists; remove it, or give another study file by --out" in result.output


def test_a_row_that_two_files_have_is_held_out_once(folder: Path) -> None:
    rows = "".join(json.dumps(row(number)) + "\n" for number in range(40))
    (folder / "one.jsonl").write_text(rows)
    (folder / "two.jsonl").write_text(rows)
    draft_study([str(folder / name) for name in ("one.jsonl", "two.jsonl", "one.jsonl")], [], folder / "mine.yaml", "m")
    assert len(load_study(folder / "mine.yaml").pool) == 2
    parts = [(folder / "mine-heldout" / f"{name}.jsonl").read_text().splitlines() for name in ("validation", "heldout")]
    assert [len(part) for part in parts] == [2, 2] and len({line for part in parts for line in part}) == 4


def test_columns_that_are_not_known_are_named(folder: Path, tiny_model: Path) -> None:
    with (folder / "survey.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["ask", "reply"], *([f"What is {n} + 1?", f"{n + 1}."] for n in range(30))])
    columns = ["--column", "prompt=ask", "--column", "answer=reply"]
    out = folder / "mine.yaml"
    result = command("init", str(folder / "survey.csv"), *columns, "--out", str(out), "--model", str(tiny_model))
    assert result.exit_code == 0, result.output
    result = command("check", str(out))
    assert result.exit_code == 0, result.output
    assert "survey.csv: 30 rows, 30 usable" in result.output and "heldout.jsonl: 2 rows, 2 usable" in result.output


def test_rows_are_no_longer_than_the_model_can_read(folder: Path, tiny_model: Path) -> None:
    draft_study([str(folder / "pool")], [], folder / "mine.yaml", str(tiny_model))
    assert load_study(folder / "mine.yaml").data.max_length == 256


def test_a_target_may_be_called_by_a_number(folder: Path) -> None:
    draft_study([str(folder / "pool")], [f"2024={folder / 'pool/a.json'}"], folder / "mine.yaml", "m")
    assert list(load_study(folder / "mine.yaml").targets) == ["2024"]


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


@pytest.fixture
def check(folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Check the drafted study with some of its keys replaced."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    out = folder / "mine.yaml"
    draft_study([str(folder / "pool")], [], out, str(tiny_model))

    def run(**settings: str) -> Any:
        given = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
        return command("check", str(out), *(word for each in given for word in ("--set", each)))

    return run


def test_check_has_what_the_preflight_finds_beside_the_rows(check: Callable[..., Any]) -> None:
    result = check(lora__target_modules="[c_attn]", deepspeed__config="none.json", data__max_length="512")
    assert result.exit_code == 2
    assert "a.json: 60 rows, 60 usable" in result.output
    assert "error: 3 to mend:" in result.stderr
    for told in ("lora.target_modules: c_attn matches no layer", "deepspeed.config: ", "data.max_length: rows of 512"):
        assert told in result.stderr


def test_check_names_the_entry_of_a_file_that_cannot_be_read_and_goes_on(
    check: Callable[..., Any], folder: Path
) -> None:
    (folder / "page.json").write_text("<!DOCTYPE html><html></html>")
    result = check(pool__1__path=str(folder / "page.json"), pool__0__path=str(folder / "pool/c.csv"))
    assert result.exit_code == 2
    assert "pool.1.path: " in result.stderr and "a web page" in result.stderr
    assert "pool.0: none of the rows looked at is usable; 1 x no turns" in result.stderr


def test_check_lets_an_entry_be_empty_as_a_run_does(check: Callable[..., Any], folder: Path) -> None:
    empty = {"pool__0__path": str(folder / "pool/c.csv")}
    assert check(**empty).exit_code == 2
    assert check(**empty, pool__0__allow_empty="true").exit_code == 0


def test_check_tells_of_filters_only_where_they_leave_nothing(check: Callable[..., Any]) -> None:
    of_second = "[{filter: regex, pattern: '(6|7|8|9)[0-9]', matches: keep}]"
    result = check(data__filters=of_second, pool__0__rows_per_file="9")
    assert result.exit_code == 0, result.output
    assert "9 rows, 0 usable; rejected: 9 x filter regex" in result.output
    result = check(data__filters="[{filter: length, min: 5000}]")
    assert result.exit_code == 2
    assert "pool: none of the rows looked at is usable; data.filters: of 101 rejected rows 'length' rejected 100 (" in (
        result.stderr
    )


def test_check_looks_on_to_the_first_usable_row(check: Callable[..., Any], folder: Path) -> None:
    lines = [{"instruction": "Say it."}] * 450 + [row(7)] * 200
    (folder / "late.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = check(pool__0__path=str(folder / "late.jsonl"))
    assert result.exit_code == 0, result.output
    assert "late.jsonl: of the first 600 rows, 150 usable" in result.output


def test_check_names_a_benchmark_that_does_not_exist(check: Callable[..., Any]) -> None:
    result = check(targets="{gsm8kk: {task: gsm8kk}}")
    assert result.exit_code == 2
    assert "targets.gsm8kk.task: lm-eval has no task 'gsm8kk'; did you mean gsm8k" in result.stderr


def test_check_says_where_the_study_cannot_be_written(check: Callable[..., Any], folder: Path) -> None:
    result = check(out=str(folder / "pool"))
    assert result.exit_code == 2
    assert "pool holds files that are no study; give an empty or new folder" in result.stderr


def test_check_names_a_few_of_many_keys(folder: Path, tiny_model: Path) -> None:
    out = folder / "mine.yaml"
    draft_study([str(folder / "pool")], [], out, str(tiny_model))
    wide = {**row(1), **{f"column{number:04}": number for number in range(2000)}}
    (folder / "wide.jsonl").write_text(json.dumps(wide) + "\n")
    result = command("check", str(out), "--set", f"pool.0.path={folder / 'wide.jsonl'}")
    assert result.exit_code == 0, result.output
    assert "column0000 (1)" in result.output and "1,981 more" in result.output and len(result.output) < 3_000


def test_a_file_with_blank_lines_is_estimated_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft_files, "READ_ROWS", 50)
    (folder / "blank.jsonl").write_text("".join(json.dumps(row(number)) + "\n\n" for number in range(200)))
    (each,) = draft_study([str(folder / "blank.jsonl")], ["gsm8k"], folder / "mine.yaml", "m")
    assert not each.whole and 150 < each.rows < 250


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
