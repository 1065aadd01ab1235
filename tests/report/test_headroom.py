"""Headroom in the report: targets that cannot move are marked, and left out of means and verdicts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instsel.config.file import parse_study
from instsel.io.store import Folder
from instsel.report.collect import collect
from instsel.report.headline import headline
from instsel.report.headroom import headroom_report
from instsel.report.html import write_into_study
from instsel.report.markdown import comparison_table
from instsel.report.record import StudyRecord
from instsel.report.results import comparisons_to, mean_table
from instsel.report.text import study_report
from instsel.stats import MEAN, Bootstrap, compare
from tests.report.conftest import CONFIG, add_headroom

MOVES = {"loss": [1.0, 1.2, 0.9, 1.1]}
STILL = {"loss": [1.0, -1.2, 0.9, -1.1]}


@pytest.fixture
def study(study_folder: Path) -> Any:
    """Writes what training moved into the finished study: target -> score -> gains of its rows."""

    def make(**gains: dict[str, list[float]]) -> Path:
        add_headroom(study_folder, gains)
        return study_folder

    return make


def facts_of(folder: Path) -> Any:
    return collect(StudyRecord(str(folder)))


def test_a_target_whose_interval_has_zero_is_left_out_of_means_and_verdicts(study: Any) -> None:
    facts = facts_of(study(sums=MOVES, towns=STILL))
    assert facts.warnings == [] and facts.cannot_move == ["towns"]
    assert facts.headroom["sums"].gains["loss"].difference == pytest.approx(1.05)
    assert (facts.headroom["sums"].moves, facts.headroom["towns"].moves) == (True, False)
    # Losses of towns are one above those of sums in this study.
    assert facts.losses["smart"] == pytest.approx({"sums": 1.2, "towns": 2.2, MEAN: 1.2})
    assert facts.losses_by_run["base"][MEAN] == facts.losses["base"]["sums"]
    assert facts.differences["smart"][MEAN] == facts.differences["smart"]["sums"]
    assert facts.adjusted_p["smart"][MEAN] == facts.adjusted_p["smart"]["sums"]
    assert facts.outcome("smart", "towns") == "undecided"
    assert facts.judged == ["sums"]
    assert "of 1 targets" in headline(facts)


@pytest.mark.parametrize(("scored", "decided_by"), [(4, "accuracy"), (3, "loss")])
def test_accuracy_decides_where_most_rows_are_scored(study: Any, scored: int, decided_by: str) -> None:
    facts = facts_of(study(sums={**MOVES, "accuracy": [0.0, 1.0, -1.0, 0.0][:scored]}, towns=MOVES)).headroom
    assert (facts["sums"].decided_by, facts["sums"].moves) == (decided_by, decided_by == "loss")
    assert ("accuracy" in facts["sums"].gains) == (decided_by == "accuracy")


def test_content_decides_where_it_is_known(study: Any) -> None:
    facts = facts_of(study(sums={**MOVES, "content": STILL["loss"]}, towns=MOVES))
    assert facts.headroom["sums"].decided_by == "content"
    assert facts.cannot_move == ["sums"]
    assert facts.losses["smart"][MEAN] == facts.losses["smart"]["towns"]


def test_where_nothing_can_move_means_are_over_all_and_no_verdict_is_given(study: Any) -> None:
    facts = facts_of(study(sums=STILL, towns=STILL))
    assert any("no target can move" in sentence for sentence in facts.warnings)
    assert facts.losses["smart"][MEAN] == pytest.approx(1.7)
    assert facts.outcome("smart", MEAN) == "undecided"
    assert headline(facts).startswith("No target can move at this model and budget")
    assert "Left out of the mean" not in study_report(facts)


def test_all_reports_mark_the_target(study: Any) -> None:
    folder = study(sums=MOVES, towns=STILL)
    text = study_report(facts_of(folder))
    assert "| towns (cannot move) |" in text
    assert "Left out of the mean and of verdicts, as nothing moves them: towns." in text
    assert "| sums | 1.05 [" in text and "| 20 rows of the pool | 4 | moves |" in text
    assert "| cannot move |" in text
    write_into_study(StudyRecord(str(folder)))
    page = (folder / "report" / "report.html").read_text()
    assert "Headroom" in page and "towns (cannot move)" in page


def test_without_headroom_every_target_counts(study_folder: Path) -> None:
    facts = facts_of(study_folder)
    assert facts.headroom == {} and facts.cannot_move == [] and headroom_report({}, 0.95) == []
    assert facts.losses["smart"][MEAN] == pytest.approx(1.7)


def test_a_study_that_asks_for_it_and_has_not_run_it_lacks_the_stage(study_folder: Path) -> None:
    config = {**CONFIG, "out": str(study_folder), "evaluation": {**CONFIG["evaluation"], "headroom": True}}
    Folder.at(study_folder).write_json("config.json", parse_study(config, "test").model_dump(mode="json"))
    facts = facts_of(study_folder)
    assert facts.missing == ["headroom"] and facts.cannot_move == []


def test_means_without_a_target_are_those_of_the_others_alone() -> None:
    random = np.random.default_rng(0)
    losses = {name: {t: random.normal(size=(2, 9)) for t in ("a", "b", "c")} for name in ("random", "bids", "less")}
    bootstrap = Bootstrap(200, 0.9, 0)
    got = comparisons_to(losses, "random", bootstrap, ["b"])
    others = {name: {t: rows for t, rows in by_target.items() if t != "b"} for name, by_target in losses.items()}
    for name, expected in compare(others, "random", bootstrap).items():
        assert got[name].intervals[MEAN] == expected.intervals[MEAN]
        assert got[name].p_values[MEAN] == expected.p_values[MEAN]
        assert list(got[name].intervals) == ["a", "b", "c", MEAN]
    flat = {name: {t: rows[0] for t, rows in by_target.items()} for name, by_target in losses.items()}
    table = mean_table(flat, ["b"])["bids"]
    assert table[MEAN] == pytest.approx((table["a"] + table["c"]) / 2)


def test_a_table_takes_its_mean_over_the_others() -> None:
    text = comparison_table({"base": {"a": 1.0, "b": 3.0}}, {}, "base", excluded=["b"])
    assert "| mean | **1.00** |" in text
