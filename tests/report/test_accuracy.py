"""Scores of runs are compared as their losses are, guards are judged, and both stand in every report."""

from pathlib import Path

import pytest
from rich.console import Console

import instsel
from instsel.console import Terminal
from instsel.report.collect import collect
from instsel.report.comparison import accuracy_text
from instsel.report.facts import StudyFacts
from instsel.report.headline import correlation_sentence, guard_sentences, headline
from instsel.report.page.results import results_section
from instsel.report.record import StudyRecord
from instsel.report.terminal import show_results
from instsel.report.text import study_report
from instsel.stats import non_inferiority


@pytest.fixture
def folder(tmp_path: Path, make_study_folder) -> Path:
    return make_study_folder(tmp_path / "tiny", scored=True)


@pytest.fixture
def facts(folder: Path) -> StudyFacts:
    return collect(StudyRecord(str(folder)))


def test_scores_are_means_over_items_and_differences_are_to_random(facts: StudyFacts):
    accuracy = facts.accuracy
    assert accuracy is not None
    assert accuracy.scores["base"] == {"sums": 0.1, "towns": 0.1, "mean": 0.1}
    assert accuracy.scores["smart"] == {"sums": 0.7, "towns": 0.7, "mean": 0.7}
    assert accuracy.items == {"sums": 40, "towns": 40}
    assert (accuracy.baseline, accuracy.best, accuracy.not_told_apart) == ("random", "smart", ["smart"])
    bids = accuracy.differences["bids"]["mean"]
    assert bids.difference == pytest.approx(0.25) and 0 < bids.low < 0.25 < bids.high
    assert accuracy.outcome("bids", "sums") == "better" and accuracy.outcome("base", "mean") == "worse"


def test_the_probability_of_the_right_option_is_compared_on_choices_alone(facts: StudyFacts):
    probability = facts.accuracy.probability
    assert list(probability.items) == ["towns"]
    assert probability.scores["smart"]["towns"] == pytest.approx(0.7 * 0.75 + 0.3 * 0.25)


def test_guards_are_judged_against_the_base_model_by_their_margin(facts: StudyFacts):
    accuracy = facts.accuracy
    assert accuracy.base_guards == {"safe": 34 / 40} and accuracy.margins == {"safe": 0.1}
    for guards in accuracy.guards.values():
        interval = guards["safe"].difference
        judged = non_inferiority(interval.difference, interval.low, interval.high, 0.1, higher_is_better=True)
        assert guards["safe"].judgement == judged
    assert accuracy.guards["random"]["safe"].judgement == "undecided"
    assert accuracy.guards["smart"]["safe"].score == 22 / 40
    assert guard_sentences(accuracy)[-1].startswith("Guards, smart: worse than the base model on safe (−30.0 [")


def test_losses_and_scores_of_trained_runs_are_correlated(facts: StudyFacts):
    # Three runs whose losses fall as their scores rise.
    assert facts.accuracy.loss_correlation["mean"].correlation == pytest.approx(-1)
    assert "over 3 trained runs: sums −1.00, towns −1.00, mean −1.00." in correlation_sentence(facts.accuracy)


def test_answers_that_no_filter_found_are_counted(facts: StudyFacts):
    assert facts.accuracy.unanswered["bids"] == {"sums": 0.25}


def test_accuracy_is_what_every_report_says_first(facts: StudyFacts, folder: Path):
    first = headline(facts.accuracy)
    assert first.startswith("Best: smart, with a mean accuracy of 70.0, 50.0 above random [")
    text = study_report(facts)
    assert text.index("## Accuracy") < text.index("## Guards") < text.index("## Held-out loss")
    assert first in text and accuracy_text(facts.accuracy)[0] == "## Accuracy\n"
    section = results_section(facts)
    assert section.parts[0].lines == [first]
    shown = Console(record=True, width=150)
    show_results([facts], "report.html", Terminal(shown))
    said = shown.export_text()
    assert said.index("accuracy, points; difference to random") < said.index(
        "held-out loss, nats; difference to random"
    )


def test_the_items_of_every_run_are_read_as_a_table(folder: Path):
    table = instsel.open_study(folder).accuracy()
    assert len(table) == 4 * 3 * 40
    assert table["run"].unique().to_pylist() == ["base", "random", "bids", "smart"]
    assert table["target"].unique().to_pylist() == ["sums", "towns", "safe"]
    assert table["seed"][0].as_py() is None and table["seed"][-1].as_py() == 0


def test_a_run_of_other_items_is_passed_over_with_a_warning(folder: Path, make_study_folder, tmp_path: Path):
    (folder / "accuracy" / "smart" / "towns.parquet").unlink()
    facts = collect(StudyRecord(str(folder)))
    assert "accuracy/smart is ignored: towns.parquet is gone" in facts.warnings
    assert "smart" not in facts.accuracy.scores


def test_a_study_that_scores_nothing_has_no_accuracy(study_folder: Path):
    assert collect(StudyRecord(str(study_folder))).accuracy is None
