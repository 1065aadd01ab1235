"""Curves over budgets: each method at each budget, compared with the baseline of the same one."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from instsel.report.collect import collect
from instsel.report.curve import curve_sentences, curve_text
from instsel.report.html import write_report
from instsel.report.page.curve import curve_parts
from instsel.report.record import StudyRecord


@pytest.fixture
def studies(tmp_path: Path, make_study_folder) -> dict[bool, Path]:
    """A study of two budgets: without scores, and with."""
    return {scored: make_study_folder(tmp_path / str(scored), scored=scored, budget=[4, 2]) for scored in (False, True)}


def test_every_method_is_compared_with_the_baseline_of_its_budget(studies):
    facts = collect(StudyRecord(str(studies[False])))
    assert list(facts.curve) == ["random", "bids", "smart"]
    assert [(point.arm, point.amount) for point in facts.curve["bids"]] == [("bids@2", 2), ("bids@4", 4)]
    assert [point.value for point in facts.curve["bids"]] == pytest.approx([2.45, 2.2])
    assert [point.difference for point in facts.curve["random"]] == [None, None]
    # A quarter of a nat between budgets is not between methods.
    assert [point.difference.difference for point in facts.curve["bids"]] == pytest.approx([-0.5, -0.5])
    assert all(0 < point.adjusted_p < 0.05 for point in facts.curve["smart"])


def test_the_value_is_the_accuracy_where_there_is_one(studies):
    facts = collect(StudyRecord(str(studies[True])))
    assert [point.value for point in facts.curve["smart"]] == pytest.approx([24 / 40, 28 / 40])


def test_methods_are_judged_at_the_largest_budget(studies):
    facts = collect(StudyRecord(str(studies[True])))
    assert list(facts.losses) == ["base", "random@4", "bids@4", "smart@4"] and facts.baseline == "random@4"
    assert facts.accuracy is not None and list(facts.accuracy.guards) == ["random@4", "bids@4", "smart@4"]
    assert facts.best == facts.accuracy.best == "smart@4"
    # What was reached for what it cost is over all budgets.
    assert list(facts.spending) == ["random@2", "bids@2", "smart@2", "random@4", "bids@4", "smart@4"]


def test_an_arm_that_picks_nothing_has_the_rows_that_it_trains_on(studies):
    for name, rows in (("bids@2", 3), ("bids@4", 6)):
        path = studies[False] / "select" / name / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["result"] |= {"rows": 0, "tokens": 0, "training": {"rows": rows, "tokens": 9}}
        path.write_text(json.dumps(manifest))
    facts = collect(StudyRecord(str(studies[False])))
    assert [point.amount for point in facts.curve["bids"]] == [3, 6]


def test_a_guard_that_is_harmed_at_a_smaller_budget_is_told(studies):
    for target, column in (("base", 1.0), ("random@2", 0.0)):
        path = studies[True] / "accuracy" / target / "safe.parquet"
        table = pq.read_table(path)
        position = table.column_names.index("correct")
        pq.write_table(table.set_column(position, "correct", [[column] * len(table)]), path)
    facts = collect(StudyRecord(str(studies[True])))
    assert [point.harmed for point in facts.curve["random"]][0] == ["safe"]
    assert "| random | 2 |" in "\n".join(curve_text(facts)) and "harms safe" in str(curve_parts(facts)[1].rows)


def test_it_stands_in_the_reports(studies):
    facts = collect(StudyRecord(str(studies[False])))
    text = "\n".join(curve_text(facts))
    assert "| smart | 2 | 1.950 | -1.00 [-1.00, -1.00] | 0.0" in text.replace("\N{MINUS SIGN}", "-"), text
    assert curve_sentences(facts)[2] == "held-out loss of smart: 1.950 with 2 rows, 1.700 with 4 rows"
    chart, table = curve_parts(facts)
    assert [trace["x"] for trace in chart.traces] == [[2, 4]] * 3 and len(table.rows) == 6
    assert len(chart.layout["shapes"]) == 1
    write_report([str(studies[False])])
    report = (studies[False] / "report" / "report.md").read_text(encoding="utf-8")
    assert "budget 2, 4 rows" in report and "## Curves over budgets" in report


def test_a_study_of_one_budget_has_no_curve(study_folder: Path):
    facts = collect(StudyRecord(str(study_folder)))
    assert facts.curve == {} and curve_text(facts) == [] and curve_parts(facts) == []
