"""The report names what was measured, what was selected and what was rejected."""

import pytest

from instsel.report.facts import AgreementFacts, StageCost, StudyFacts
from instsel.report.text import agreement_sentence, cost_table, study_report

INTERVAL = {"difference": -0.5, "low": -0.75, "high": -0.25}


@pytest.fixture
def values():
    return {
        "study": "s",
        "path": "runs/s",
        "model": "m",
        "dtype": "float32",
        "budget": 0.1,
        "unit": "rows",
        "baseline": "random",
        "runs": {"base": ["base"], "random": ["random-1", "random-2"], "bids": ["bids"]},
        "heldout_rows": {"a": 40},
        "losses": {name: {"a": loss, "mean": loss} for name, loss in [("base", 3.0), ("random", 2.0), ("bids", 1.5)]},
        "differences": {"bids": {"a": INTERVAL, "mean": INTERVAL}},
        "adjusted_p": {"bids": {"a": 0.012, "mean": 0.0005}},
        "best": "bids",
        "not_told_apart": ["bids"],
        "confidence": 0.95,
        "pool": {
            "rows": 10,
            "tokens": 100,
            "shards": [],
            "rejected": {"empty content": 2},
            "sources": {"web": {"rows": 10, "tokens": 100}},
        },
        "selections": {"bids": {"rows": 1, "tokens": 7, "sources": {"web": 1}, "tasks": {"web/qa": 1}}},
        "rejected": {
            "counts": {"empty content": 2, "no usable gradient": 1},
            "without_gradient": {"ab": "zero gradient at epoch-1"},
        },
        "cost": {"features": {"seconds": 2.0, "tokens": 100, "peak_memory_bytes": 2**30}},
        "provenance": {"versions": {"instsel": "0.1.0"}, "fingerprint": "f00d", "stages": {}, "study_file": ""},
    }


def report_of(values):
    return study_report(StudyFacts.model_validate(values))


def test_the_best_loss_is_bold_and_differences_have_intervals(values):
    report = report_of(values)
    assert "**1.50** (−0.50 [−0.75, −0.25])" in report
    assert "95% paired bootstrap interval over held-out rows (a 40)" in report
    assert "Random is the mean of 2 runs." in report


def test_p_values_and_what_intervals_contain_stand_below_the_losses(values):
    report = report_of(values)
    assert "Best: bids, with a mean held-out loss of 1.500, 0.500 below random [−0.750, −0.250]." in report
    assert "| adjusted p-value | mean | a |" in report and "| bids | < 0.001 | 0.012 |" in report
    assert "at most 5%, adjusted by Holm over the methods of a column" in report
    assert "of bids, with a single seed, it does not contain the variance between training seeds" in report
    values["differences"], values["adjusted_p"] = {}, {}
    assert "Holm" not in report_of(values) and "training seeds" not in report_of(values)


def test_rejected_rows_are_counted_with_their_reason(values):
    report = report_of(values)
    assert "rejected rows: 2 x empty content" in report
    assert "rejected rows: 1 x no usable gradient" in report


def test_what_was_selected_and_what_it_cost(values):
    report = report_of(values)
    assert "**bids**: 1 rows, 7 tokens; most from web/qa 1." in report
    assert "| features | 2.0 | 100 | 50 | 1.00 GiB |" in report


def test_a_study_without_heldout_rows_says_so(values):
    values |= {"heldout_rows": {}, "losses": {}, "differences": {}}
    assert "no target has held-out rows" in report_of(values)


def test_a_budget_in_rows_is_written_as_rows(values):
    assert "budget 25 rows" in report_of({**values, "budget": 25})


def test_metrics_of_selections_are_shown_where_influence_was_read(values):
    assert "serves" not in report_of(values)
    metrics = {"served": {"a": 3}, "influence": {"a": -0.25}, "lowest": -1.0, "highest": 2.5, "redundancy": 0.0625}
    values["metrics"] = {"attribution": "fisher-0.1", "by_selection": {"bids": metrics}}
    report = report_of(values)
    assert "| selection | a | worst to best row | redundancy |" in report
    assert "| bids | 3 (−0.25) | −1.00 to 2.50 | 0.062 |" in report
    assert "By fisher-0.1." in report


def test_many_selections_have_a_line_each(values):
    assert "| source | pool | bids |" in report_of(values)
    values["selections"] = {f"bids-{number}": values["selections"]["bids"] for number in range(9)}
    report = report_of(values)
    assert "| source | pool |" not in report
    assert report.count("1 rows, 7 tokens; most from web/qa 1.") == 9


def test_a_selection_from_an_earlier_pool_is_reported_without_the_table_of_sources(values):
    values["selections"]["bids"]["sources"] = {"web": 11}
    report = report_of(values)
    assert "| source | pool |" not in report and "**bids**: 1 rows" in report


def test_an_agreement_is_described_by_what_is_known_of_it():
    def sentence(**values):
        known = {"correlation": 0.5, "low": -0.1, "high": 0.9, "within": 0.25, "entries": 30}
        return agreement_sentence("a against b", AgreementFacts.model_validate(known | values))

    assert sentence() == (
        "a against b: Spearman's rank correlation 0.50 [−0.10, 0.90] over 30 pairs of categories; "
        "0.25 on average within an evaluated category."
    )
    unknown = sentence(low=None, high=float("nan"), within=None)
    assert unknown.endswith("rank correlation 0.50 over 30 pairs of categories.")
    assert "too few entries" in sentence(correlation=float("nan"))


def test_cost_sums_seconds_and_takes_the_highest_peak() -> None:
    stages = {
        "warmup": StageCost(seconds=1000.0, tokens=2_500_000, peak_memory_bytes=3 * 2**30),
        "select": StageCost(seconds=0.25, peak_memory_bytes=2**29),
    }
    assert cost_table(stages) == (
        "| stage | seconds | tokens | tokens/s | peak memory |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| warmup | 1,000.0 | 2,500,000 | 2,500 | 3.00 GiB |\n"
        "| select | 0.2 | – | – | 0.50 GiB |\n"
        "| all | 1,000.2 | – | – | 3.00 GiB |\n"
    )


def test_cost_of_nothing_measured() -> None:
    assert "| all | 0.0 | – | – | – |" in cost_table({"report": StageCost(seconds=0.0, tokens=5)})


def test_rows_that_were_worked_on_again_have_a_column_where_there_are_any() -> None:
    table = cost_table(
        {
            "features": StageCost(seconds=2.0, tokens=5, rows_reprocessed=1200),
            "select": StageCost(seconds=1.0, rows_reprocessed=3),
        }
    )
    assert table.splitlines()[0] == "| stage | seconds | tokens | tokens/s | peak memory | rows again |"
    assert [line.split(" | ")[-1] for line in table.splitlines()[2:]] == ["1,200 |", "3 |", "1,203 |"]
    assert "again" not in cost_table({"features": StageCost(seconds=2.0, tokens=5)})
