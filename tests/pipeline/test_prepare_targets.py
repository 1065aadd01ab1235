"""Validation and held-out rows of the targets, and what is known of their texts."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instsel.config.file import parse_study
from instsel.data.contamination import LeakIndex
from instsel.data.encode import DUPLICATE
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.pipeline.prepare_targets import leak_index, prepare_targets, why_rejected
from instsel.runtime.errors import clear_errors

pytestmark = pytest.mark.usefixtures("ray_session")

Prepare = Callable[..., tuple[dict[str, Any], Folder]]
STORY = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def row(number: int, answer: str = "Me.", **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"Number {number}?"}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **more}


@pytest.fixture
def prepare(tiny_study: Callable[..., dict[str, Any]], write_rows: Callable[..., Path], tmp_path: Path) -> Prepare:
    """Prepare targets whose files have these rows; other keys of a target are taken as they are."""

    def make(**targets: dict[str, Any]) -> tuple[dict[str, Any], Folder]:
        for name, target in targets.items():
            for split in ("validation", "heldout"):
                if isinstance(target.get(split), list):
                    write_rows(f"{name}-{split}.jsonl", target[split])
                    target[split] = f"{name}-{split}.jsonl"
        study = parse_study(tiny_study(targets=targets), "study.yaml")
        folder = Folder.at(tmp_path / "prepare")
        with clear_errors():
            return prepare_targets(study, folder), folder

    return make


def test_targets_are_prepared_each_by_itself(prepare: Prepare) -> None:
    shown = [row(number, subject="even" if number % 2 == 0 else "odd") for number in range(1, 9)]
    held = [*shown[:2], *(row(number) for number in range(9, 13))]
    counts, folder = prepare(
        main={"validation": [*shown, {"messages": []}, shown[1]], "heldout": held, "subtask": "subject"},
        other={"validation": shown[:3]},
    )
    main, other = folder / "targets" / "main", folder / "targets" / "other"
    assert other.names() == ["validation.parquet", "validation.rejected.parquet"]
    rows = main.read_table("validation.parquet").to_pylist()
    assert [line["line"] for line in rows] == list(range(1, 9))
    assert [line["task"] for line in rows] == ["odd", "even"] * 4
    assert {line["source"] for line in rows} == {"main"}
    aside = main.read_table("validation.rejected.parquet").to_pylist()
    bad = "`messages` is not a list of turns"
    assert [(line["line"], line["reason"]) for line in aside] == [(9, bad), (10, DUPLICATE)]
    assert main.read_table("heldout.parquet")["line"].to_pylist() == [3, 4, 5, 6]
    assert main.read_table("heldout.rejected.parquet")["reason"].to_pylist() == ["also a validation row"] * 2
    described = {
        name: {split: count.model_dump() for split, count in splits.items()} for name, splits in counts.items()
    }
    assert described == {
        "main": {
            "validation": {"rows": 8, "rejected": {bad: 1, DUPLICATE: 1}},
            "heldout": {"rows": 4, "rejected": {"also a validation row": 2}},
        },
        "other": {"validation": {"rows": 3, "rejected": {}}},
    }


def test_a_limit_gives_the_same_sample_whatever_the_order(prepare: Prepare) -> None:
    rows = [row(number) for number in range(12)]
    limits = {"max_validation": 3, "max_heldout": 2}
    samples = []
    for shown in (rows, rows[::-1]):
        target = {"validation": shown, "heldout": [row(number) for number in range(20, 30)], **limits}
        counts, folder = prepare(main=target)
        assert [counts["main"][split].rows for split in ("validation", "heldout")] == [3, 2]
        samples.append(set((folder / "targets/main").read_table("validation.parquet")["id"].to_pylist()))
    assert samples[0] == samples[1]


def test_the_index_knows_validation_and_heldout_of_every_target(prepare: Prepare) -> None:
    texts = [[STORY.replace(" ", f"{letter} ") for letter in pair] for pair in ("ab", "cd")]
    targets = {
        name: {"validation": [row(1, first)], "heldout": [row(2, second)]}
        for name, (first, second) in zip(("x", "y"), texts, strict=True)
    }
    _, folder = prepare(**targets)
    found = leak_index(folder, 13)
    assert all(found.leaks(row(3, text)["messages"]) for pair in texts for text in pair)
    assert not found.leaks(row(3, STORY)["messages"])
    expected = LeakIndex.of([[row(1, a)["messages"], row(2, b)["messages"]] for a, b in texts], 13)
    assert (found.runs.tolist(), found.template.tolist()) == (expected.runs.tolist(), expected.template.tolist())


def asked(number: int, answer: str = "Me.") -> dict[str, Any]:
    """A row with a prompt of enough words to be known by."""
    return {"messages": [{"role": "user", "content": f"Who is number {number}?"}, row(0, answer)["messages"][1]]}


def test_heldout_rows_that_are_validation_rows_of_another_target_are_rejected(prepare: Prepare) -> None:
    system = {"role": "system", "content": "Be brief."}
    dressed = {"messages": [system, {"role": "user", "content": "WHO is number 2"}, asked(2)["messages"][1]]}
    counts, folder = prepare(
        first={"validation": [asked(1), asked(2)], "heldout": [asked(10), asked(3), asked(4, "You."), asked(11)]},
        second={"validation": [asked(3), asked(4)], "heldout": [asked(12), asked(1), dressed]},
        third={"validation": [asked(1), asked(20)]},
    )
    shown = "also a validation row of target"
    assert {name: (split["heldout"].rows, split["heldout"].rejected) for name, split in list(counts.items())[:2]} == {
        "first": (2, {f"{shown} second": 2}),
        "second": (1, {f"{shown} first": 2}),
    }
    for name, lines, rejected in (("first", [1, 4], [2, 3]), ("second", [1], [2, 3])):
        target = folder / "targets" / name
        assert target.read_table("heldout.parquet")["line"].to_pylist() == lines
        assert target.read_table("heldout.rejected.parquet")["line"].to_pylist() == rejected
    # A validation row may be one of several targets.
    assert [counts[name]["validation"].rows for name in counts] == [2, 2, 2]
    assert leak_index(folder, 13).leaks(asked(3)["messages"])


def test_short_prompts_are_those_of_another_target_only_with_their_answer(prepare: Prepare) -> None:
    counts, _ = prepare(
        first={"validation": [row(1, "A."), row(2, "B.")]},
        second={"validation": [row(3)], "heldout": [row(1, "C."), row(2, "b")]},
    )
    assert counts["second"]["heldout"].rejected == {"also a validation row of target first": 1}


def test_a_target_whose_heldout_rows_are_all_shown_elsewhere_is_named(prepare: Prepare) -> None:
    with pytest.raises(InputError) as error:
        prepare(first={"validation": [asked(1)]}, second={"validation": [asked(2)], "heldout": [asked(1)]})
    assert str(error.value) == (
        "targets.second.heldout: no usable row is left; rows were rejected: 1 x also a validation row of target first"
    )


def test_a_target_without_validation_rows_is_named_with_the_reasons(prepare: Prepare) -> None:
    bad = [{"messages": [{"role": "user", "content": "Why?"}]}] * 3 + [{"text": "x"}]
    with pytest.raises(InputError) as error:
        prepare(sums={"validation": bad})
    assert str(error.value) == (
        "targets.sums.validation: sums-validation.jsonl has no usable row; rows were rejected: "
        "3 x no assistant turn, 1 x `text` is text without turns; answers are trained on, and nothing says which part "
        "is one"
    )


@pytest.mark.parametrize("name", ["blank.jsonl", "empty.jsonl.gz", "empty.parquet"])
def test_a_file_without_rows_is_named(name: str, prepare: Prepare, tmp_path: Path) -> None:
    if name.endswith("parquet"):
        pq.write_table(pa.table({"messages": pa.array([], pa.string())}), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith("gz") else b"\n\n")
    for split in ("validation", "heldout"):
        with pytest.raises(InputError) as error:
            prepare(sums={"validation": [row(1)], split: name})
        assert str(error.value) == f"targets.sums.{split}: {name} has no usable row; its files hold no rows"


def test_heldout_rows_that_are_all_validation_rows_are_refused(prepare: Prepare) -> None:
    with pytest.raises(InputError) as error:
        prepare(sums={"validation": [row(1), row(2)], "heldout": [row(2)]})
    assert str(error.value) == (
        "targets.sums.heldout: sums-heldout.jsonl has no usable row; rows were rejected: 1 x also a validation row"
    )


def test_a_damaged_file_is_named_with_its_line(prepare: Prepare, tmp_path: Path) -> None:
    packed = gzip.compress("".join(json.dumps(row(number)) + "\n" for number in range(300)).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match=r"/cut\.jsonl\.gz: damaged after line \d+ .*; fetch or pack the file again"):
        prepare(sums={"validation": "cut.jsonl.gz"})


def test_only_the_most_frequent_reasons_are_told() -> None:
    assert why_rejected({"a": 4, "b": 3, "c": 2, "d": 1}) == "rows were rejected: 4 x a, 3 x b, 2 x c"
