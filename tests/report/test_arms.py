"""A report of arms that train on other rows than those they selected."""

import pytest

from instsel.io.store import Folder
from instsel.report.collect import collect
from instsel.report.html import build_page
from instsel.report.reading import read_texts
from instsel.report.record import StudyRecord
from instsel.report.text import study_report


@pytest.fixture
def record(study_folder):
    """A study whose `random` selected no row and trained on four validation rows, and `bids` on six rows more."""
    folder = Folder.at(str(study_folder)) / "select"
    table = (folder / "random").read_table("selected.parquet")
    (folder / "random").write_table("selected.parquet", table.slice(0, 0))
    results = {
        "random": {"rows": 0, "tokens": 0, "sources": {}, "tasks": {}, "validation": {"rows": 4, "tokens": 48}},
        "bids": {"quotas": {"sums": 3, "towns": 1}},
    }
    results["random"]["training"] = results["random"]["validation"]
    results["bids"]["training"] = {"rows": 10, "tokens": 480}
    for name, result in results.items():
        manifest = (folder / name).read_json("manifest.json")
        manifest["result"] |= result
        (folder / name).write_json("manifest.json", manifest)
    return StudyRecord(str(study_folder))


def test_what_is_trained_on_beside_a_selection_is_said(record):
    report = study_report(collect(record))
    assert "**random**: 0 rows, 0 tokens. An epoch trains on 4 rows and 48 tokens, 4 of them validation rows." in report
    assert "Chosen 3 by sums, 1 by towns. An epoch trains on 10 rows and 480 tokens." in report


def test_the_page_has_a_selection_without_rows(record):
    facts = collect(record)
    assert facts.warnings == [] and facts.composition["source"].selections["random"] == [0, 0]
    assert set(facts.lengths) == {"pool", "bids", "smart"}
    page = build_page([(facts, read_texts(record, facts.reading.rows))]).decode()
    assert "bids: Chosen 3 by sums, 1 by towns. An epoch trains on 10 rows and 480 tokens." in page
