"""Form and content in the report: means over rows and runs, intervals, targets without other answers left out."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import instsel
from instsel.api.tables import gain_table
from instsel.config.file import parse_study
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.report.collect import as_json, collect
from instsel.report.gains import gains, gains_report
from instsel.report.html import write_into_study
from instsel.report.page.gains import gains_section
from instsel.report.record import StudyRecord
from instsel.report.text import study_report
from tests.report.conftest import CONFIG

IDS = ["a-0", "a-1", "a-2", "b-0", "b-1"]
BASE = [4.0, 4.2, 4.4, 2.0, 3.0]
# Of the first row all is form; of the second all is content.
BIDS = [1.0, 1.1, 1.3, 1.0, 3.0]


@pytest.fixture
def evaluated(study_folder: Path) -> Path:
    """A finished study whose answers to one target were evaluated."""
    keys = {**CONFIG["evaluation"], "form_and_content": True}
    config = parse_study({**CONFIG, "out": str(study_folder), "evaluation": keys}, "test")
    Folder.at(study_folder).write_json("config.json", config.model_dump(mode="json"))
    for run, losses in {"base": BASE, "random": BASE, "bids": BIDS, "smart": BASE}.items():
        write_answers(study_folder, run, IDS, losses)
    return study_folder


def write_answers(study: Path, run: str, ids: list[str], losses: list[float]) -> None:
    folder = Folder.at(study) / "evaluate" / run / "answers"
    folder.write_table("sums.parquet", pa.table({"id": ids, "loss": losses}))


def facts_of(folder: Path) -> Any:
    return collect(StudyRecord(str(folder)))


def test_gains_are_split_by_target_with_intervals_that_hold_the_mean(evaluated: Path) -> None:
    by_method = facts_of(evaluated).gains
    assert list(by_method) == ["random", "bids", "smart"]
    assert list(by_method["bids"]) == ["sums", "mean"]  # towns has no other answers
    gain = by_method["bids"]["sums"]
    assert gain.items == 2
    assert gain.form.difference == pytest.approx((3.1 + 0.0) / 2)
    assert gain.content.difference == pytest.approx((-0.1 + 1.0) / 2)
    # Of two rows the resamples are both, or one of them twice.
    assert (gain.form.low, gain.form.high) == pytest.approx((0.0, 3.1))
    assert (gain.content.low, gain.content.high) == pytest.approx((-0.1, 1.0))
    assert by_method["bids"]["mean"].form == gain.form
    assert by_method["random"]["sums"].content.difference == 0.0


def test_runs_of_a_method_are_averaged_row_by_row(evaluated: Path) -> None:
    by_method, sentences = gains(StudyRecord(str(evaluated)), {"base": ["base"], "both": ["bids", "smart"]})
    assert list(by_method) == ["both"] and sentences == []
    by_target = by_method["both"]
    assert by_target["sums"].form.difference == pytest.approx(3.1 / 4)
    assert by_target["sums"].content.difference == pytest.approx(0.9 / 4)


def test_a_run_with_other_answers_than_the_base_model_is_named(evaluated: Path) -> None:
    write_answers(evaluated, "bids", ["a-0", "a-2", "a-1", "b-0", "b-1"], BIDS)
    facts = facts_of(evaluated)
    assert "bids" not in facts.gains
    assert any("evaluate/bids/answers/sums.parquet has other answers" in sentence for sentence in facts.warnings)


def test_the_reports_show_form_and_content_beside_each_other(evaluated: Path) -> None:
    facts = facts_of(evaluated)
    text = study_report(facts)
    assert "## Form and content of the gains" in text
    assert "| bids, form | 1.55 [0.00, 3.10] | 1.55 [0.00, 3.10] |" in text
    assert "| bids, content | 0.45 [−0.10, 1.00] | 0.45 [−0.10, 1.00] |" in text
    assert "(sums 2)" in text
    section = gains_section(facts)
    assert section is not None
    (table,) = section.parts
    assert [row[0].small for row in table.rows] == ["form", "content"] * 3  # type: ignore[union-attr]
    assert as_json(facts)["gains"]["bids"]["sums"]["items"] == 2  # type: ignore[index,call-overload]
    write_into_study(StudyRecord(str(evaluated)))
    assert "Form and content of the gains" in (evaluated / "report" / "report.html").read_text()


def test_without_the_setting_there_is_nothing_of_it(study_folder: Path) -> None:
    write_answers(study_folder, "base", IDS, BASE)
    facts = facts_of(study_folder)
    assert facts.gains == {} and gains_report(facts) == [] and gains_section(facts) is None


def test_losses_have_the_means_of_each_run_and_gains_have_the_report(evaluated: Path) -> None:
    losses = instsel.open_study(evaluated).losses().to_pandas().set_index("run")
    assert losses.loc["bids", ["form", "content"]].tolist() == pytest.approx([1.55, 0.45])
    assert losses.loc["base", ["form", "content"]].isna().all()
    by_target = gain_table(as_json(facts_of(evaluated))).to_pandas().set_index(["method", "target"])
    assert by_target.loc[("bids", "sums"), ["form_low", "content_high"]].tolist() == pytest.approx([0.0, 1.0])
    assert by_target.loc[("bids", "mean"), "items"] == 2


def test_gains_that_were_not_asked_for_are_an_error_with_the_key(study_folder: Path) -> None:
    study = instsel.open_study(study_folder)
    assert "form" not in study.losses().column_names
    with pytest.raises(InputError, match="evaluation.form_and_content: true"):
        study.gains()
    assert np.isfinite(study.losses()["mean"].to_numpy()).all()
