"""An evaluation of the user's own is run as it is written, and what it leaves is read or refused with its line."""

import sys
from pathlib import Path

import pytest

from instsel.config.evaluation import split_command
from instsel.errors import InputError, StudyError
from instsel.evaluation.command import read_items, run_command

LINE = '{"target": "ours", "item": "q1", "correct": true, "probability": 0.5, "answer": 4, "right": "5"}\n'


def test_arguments_are_split_as_a_shell_does_and_places_stay():
    assert split_command("python eval.py --out={out} --name 'two words'") == [
        "python", "eval.py", "--out={out}", "--name", "two words",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("eval {adapter}", r"has to name \{out\}"),
        ("eval {outt} {out}", "'outt' is none of them"),
        ("eval {} {out}", "is none of them"),
        ("eval 'open {out}", "No closing quotation"),
    ],
)
def test_a_command_that_cannot_be_filled_in_is_refused(command: str, message: str):
    with pytest.raises(ValueError, match=message):
        split_command(command)


def read(tmp_path: Path, text: str) -> dict[str, list[dict[str, object]]]:
    path = tmp_path / "items.jsonl"
    path.write_text(text)
    return {name: table.to_pylist() for name, table in read_items(path, ["ours"]).items()}


def test_items_are_a_line_each(tmp_path: Path):
    (row,) = read(tmp_path, LINE + "\n")["ours"]
    assert (row["correct"], row["probability"], row["answer"], row["right"]) == (1.0, 0.5, "4", "5")
    other = read(tmp_path, LINE.replace("q1", "q2"))["ours"][0]
    assert len(row["item"]) == 16 and row["item"] != other["item"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it wrote no item of 'ours'"),
        (LINE + LINE, "two items of 'ours' are the same"),
        (LINE + "{", "line 2 of its items is not JSON"),
        (LINE.replace("ours", "theirs"), "line 1 of its items has no `target` that it scores"),
        (LINE.replace("true", "NaN"), "line 1 of its items: `correct` is nan, not a finite number"),
        (LINE.replace("true", "null"), "line 1 of its items needs `item`"),
        (LINE.replace("0.5", '"half"'), "line 1 of its items: `probability` is 'half'"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


def test_a_command_that_leaves_no_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="ended without writing"):
        read_items(tmp_path / "none.jsonl", ["ours"])


@pytest.mark.process
def test_a_command_that_fails_says_what_it_printed(tmp_path: Path):
    script = "import sys; print('no GPU here'); sys.exit(3)"
    with pytest.raises(StudyError, match="failed with status 3; it said at last: no GPU here"):
        run_command(f'{sys.executable} -c "{script}" {{out}}', {"out": "x"}, tmp_path / "log")
    with pytest.raises(StudyError, match="nowhere cannot be started"):
        run_command("nowhere {out}", {"out": "x"}, tmp_path / "log")
