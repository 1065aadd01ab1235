"""The report names what was measured, what was chosen and what was set aside."""

import pytest

from instsel.report.study_report import study_report

INTERVAL = {"difference": -0.5, "low": -0.75, "high": -0.25}


@pytest.fixture
def summary():
    return {
        "study": "s",
        "model": "m",
        "dtype": "float32",
        "budget": 0.1,
        "unit": "rows",
        "baseline": "random",
        "columns": {"base": ["base"], "random": ["random-1", "random-2"], "bids": ["bids"]},
        "heldout_rows": {"a": 40},
        "losses": {name: {"a": loss, "mean": loss} for name, loss in [("base", 3.0), ("random", 2.0), ("bids", 1.5)]},
        "differences": {"bids": {"a": INTERVAL, "mean": INTERVAL}},
        "confidence": 0.95,
        "pool": {
            "rows": 10,
            "tokens": 100,
            "rejected": {"empty content": 2},
            "sources": {"web": {"rows": 10, "tokens": 100}},
        },
        "selections": {"bids": {"rows": 1, "tokens": 7, "sources": {"web": 1}, "tasks": {"web/qa": 1}}},
        "figures": {},
        "categories": {},
        "interaction": {},
        "agreement": {},
        "mixtures": {},
        "rejected": {"ab": "zero gradient at epoch-1"},
        "cost": {"features": {"seconds": 2.0, "tokens": 100, "peak_memory_bytes": 2**30}},
        "versions": {"instsel": "0.1.0"},
        "fingerprint": "f00d",
    }


def test_the_best_loss_is_bold_and_differences_have_intervals(summary):
    report = study_report(summary)
    assert "**1.50** (−0.50 [−0.75, −0.25])" in report
    assert "95% paired bootstrap interval over held-out rows (a 40)" in report
    assert "Random is the mean of 2 runs." in report


def test_rows_set_aside_are_counted_with_their_reason(summary):
    report = study_report(summary)
    assert "set aside: 2 x empty content" in report
    assert "set aside: 1 x no usable gradient" in report


def test_what_was_chosen_and_what_it_cost(summary):
    report = study_report(summary)
    assert "**bids**: 1 rows, 7 tokens; most from web/qa 1." in report
    assert "| features | 2.0 | 100 | 50 | 1.00 GiB |" in report


def test_a_study_without_heldout_rows_says_so(summary):
    summary |= {"heldout_rows": {}, "losses": {"base": {}}, "differences": {}}
    assert "No target has held-out rows" in study_report(summary)


def test_a_budget_in_rows_is_written_as_rows(summary):
    assert "budget 25 rows" in study_report({**summary, "budget": 25})


def test_what_each_selection_serves_is_told_where_influence_was_read(summary):
    assert "serves" not in study_report(summary)
    figure = {"served": {"a": 3}, "influence": {"a": -0.25}, "lowest": -1.0, "highest": 2.5, "redundancy": 0.0625}
    summary["figures"] = {"influence": "fisher-0.1", "by_selection": {"bids": figure}}
    report = study_report(summary)
    assert "| selection | a | worst to best row | redundancy |" in report
    assert "| bids | 3 (−0.25) | −1.00 to 2.50 | 0.062 |" in report
    assert "By fisher-0.1." in report


def test_many_selections_are_told_line_by_line(summary):
    assert "| source | pool | bids |" in study_report(summary)
    summary["selections"] = {f"bids-{number}": summary["selections"]["bids"] for number in range(9)}
    report = study_report(summary)
    assert "| source | pool |" not in report
    assert report.count("1 rows, 7 tokens; most from web/qa 1.") == 9
