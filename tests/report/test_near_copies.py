"""Near-copies in the report: those of words that *prepare* counted, and those of meaning in a sample."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from instsel.io.store import Folder
from instsel.report.collect import Measured, collect
from instsel.report.html import write_into_study
from instsel.report.near_copies import NearCopyFacts, near_copies_sentences, semantic_copies
from instsel.report.record import StudyRecord
from instsel.report.text import study_report

PAIRS = [("row03", "left", "row00", "left", 0.75), ("row09", "right<b>", "row01", "left", 0.9)]
TEXT = "<b>the same</b> words"


@pytest.fixture
def with_copies(study_folder: Path) -> Path:
    """A study whose *prepare* found two near-copies, and whose prompts are embedded."""
    folder = Folder.at(study_folder)
    manifest = (folder / "prepare").read_json("manifest.json")
    names = ("id", "source", "kept_id", "kept_source", "similarity")
    manifest["result"]["near_duplicates"] = {
        "threshold": 0.6,
        "dropped": False,
        "groups": 2,
        "rows": 2,
        "sources": {"left": 1, "right<b>": 1},
        "examples": [dict(zip(names, pair, strict=True)) for pair in PAIRS],
    }
    (folder / "prepare").write_json("manifest.json", manifest)
    lines = [
        {"id": name, "kept_id": kept, "text": f"{TEXT} of {name}", "kept_text": f"{TEXT} of {kept}"}
        for name, _, kept, _, _ in PAIRS
    ]
    (folder / "prepare").write_table("near_duplicates.parquet", pa.Table.from_pylist(lines))
    vectors = np.eye(12, 16, dtype=np.float32)
    vectors[7] = vectors[2] * 3 + 0.1 * vectors[4]
    for number in range(2):
        ids = [f"row{index:02d}" for index in range(6 * number, 6 * number + 6)]
        block = pa.FixedSizeListArray.from_arrays(pa.array(vectors[6 * number : 6 * number + 6].ravel()), 16)
        table = pa.table({"id": ids, "embedding": block})
        (folder / "embed" / "pool").write_table(f"00000-00000{number}.arrow", table)
        pool = folder / "prepare" / "pool"
        rows = pool.read_table(f"00000-00000{number}.parquet")
        sources = pa.array(["left", "right<b>"][number : number + 1] * 6)
        pool.write_table(f"00000-00000{number}.parquet", rows.append_column("source", sources))
    return study_folder


def measured(folder: Path) -> tuple[StudyRecord, Measured]:
    """The record, and of what the stage measures that which needs no gradients."""
    record = StudyRecord(str(folder))
    return record, Measured({}, "f", semantic=semantic_copies(record))


def test_near_copies_are_counted_with_examples_and_their_texts(with_copies: Path) -> None:
    record, of_stage = measured(with_copies)
    copies = collect(record, of_stage).near_copies
    assert copies is not None
    assert (copies.rows, copies.groups, copies.sources) == (2, 2, {"left": 1, "right<b>": 1})
    assert [(each.id, each.other, each.text, each.other_text) for each in copies.examples] == [
        (name, kept, f"{TEXT} of {name}", f"{TEXT} of {kept}") for name, _, kept, _, _ in PAIRS
    ]


def test_prompts_of_the_same_meaning_are_found_by_their_embeddings(with_copies: Path) -> None:
    record, of_stage = measured(with_copies)
    copies = collect(record, of_stage).near_copies
    assert copies is not None
    assert copies.semantic is not None
    assert (copies.semantic.sampled, copies.semantic.compared, copies.semantic.rows) == (12, 12, 2)
    pairs = {(each.id, each.other) for each in copies.semantic.examples}
    assert pairs == {("row02", "row07"), ("row07", "row02")}
    example = next(each for each in copies.semantic.examples if each.id == "row07")
    assert example.similarity == pytest.approx(3 / np.sqrt(9.01), rel=1e-5)
    assert (example.source, example.other_source) == ("right<b>", "left")
    assert example.text.startswith("needlerow07")


def test_a_later_report_takes_what_the_stage_measured(with_copies: Path) -> None:
    record, of_stage = measured(with_copies)
    write_into_study(record, of_stage)
    summary = Folder.at(with_copies).read_json("report/summary.json")["near_copies"]
    assert summary["semantic"]["rows"] == 2
    assert NearCopyFacts.model_validate(summary) == collect(record, of_stage).near_copies


def test_the_reports_say_it_and_escape_the_texts(with_copies: Path) -> None:
    record, of_stage = measured(with_copies)
    report = study_report(collect(record, of_stage))
    assert (
        "2 rows are nearly the same as one of 2 earlier rows (similarity 0.6 or more); they are in the pool" in report
    )
    assert "- near-copies by source: left 1, " in report
    assert "Of 12 sampled prompts 2 (16.67%) have a prompt of nearly the same meaning among 12 rows" in report
    write_into_study(record, of_stage)
    page = Path(with_copies, "report/report.html").read_text(encoding="utf-8")
    assert "nearly the same meaning" in page
    assert "&lt;b&gt;the same&lt;/b&gt; words of row03" in page
    assert TEXT not in page


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rows": 0, "groups": 0}, "No row of the pool is nearly the same as another (similarity 0.6 or more)."),
        (
            {"dropped": True},
            "2 rows are nearly the same as one of 1 earlier rows (similarity 0.6 or more); they were dropped.",
        ),
    ],
)
def test_what_was_done_with_near_copies_is_said(changes: dict[str, Any], sentence: str) -> None:
    values = {"threshold": 0.6, "dropped": False, "groups": 1, "rows": 2, "sources": {}, "examples": [], **changes}
    assert near_copies_sentences(NearCopyFacts.model_validate(values)) == [sentence]


def test_a_study_that_did_not_look_says_nothing(study_folder: Path) -> None:
    record, of_stage = measured(study_folder)
    facts = collect(record, of_stage)
    assert facts.near_copies is None
    assert "Near-copies" not in study_report(facts)


def test_dropped_near_copies_are_one_reason_in_the_report(study_folder: Path) -> None:
    folder = Folder.at(study_folder) / "prepare"
    manifest = folder.read_json("manifest.json")
    manifest["result"]["pool"]["rejected"]["near copy of an earlier row"] = 40
    folder.write_json("manifest.json", manifest)
    lines = [{"file": "a", "line": n, "reason": f"near copy of row {n:016x}", "text": "t"} for n in range(40)]
    (folder / "rejected").write_table("near_duplicates.parquet", pa.Table.from_pylist(lines))
    rejected = collect(StudyRecord(str(study_folder))).rejected
    examples = [row.reason for row in rejected.examples if row.reason.startswith("near copy")]
    assert rejected.counts["near copy of an earlier row"] == 40
    assert examples[0] == f"near copy of row {0:016x}"
    assert len(examples) < 10
