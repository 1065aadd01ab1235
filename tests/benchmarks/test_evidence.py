"""The ledger keeps what a study found, and compares its arms as the study's report does."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.evidence.__main__ import filled, tables
from benchmarks.evidence.ledger import accuracy_of, add, losses_of, without_paths
from instsel.errors import InputError
from instsel.report.collect import collect
from instsel.report.record import StudyRecord
from tests.report.conftest import add_headroom, make_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_study(tmp_path / "tiny", scored=True)


@pytest.fixture
def entry(study: Path, tmp_path: Path) -> Path:
    add(str(study), tmp_path / "ledger" / "near")
    return tmp_path / "ledger" / "near"


def test_its_comparisons_are_those_of_the_report(study: Path, entry: Path):
    facts = collect(StudyRecord(str(study)))
    losses, accuracy = losses_of(entry), accuracy_of(entry)
    assert losses.losses == facts.losses and losses.differences == facts.differences
    assert losses.not_told_apart == facts.not_told_apart
    assert accuracy.scores == facts.accuracy.scores and accuracy.differences == facts.accuracy.differences
    assert accuracy.guards == facts.accuracy.guards and accuracy.probability == facts.accuracy.probability
    assert accuracy.loss_correlation == facts.accuracy.loss_correlation


def test_what_is_there_is_not_added_again(study: Path, entry: Path):
    before = {path.name: path.read_bytes() for path in entry.glob("*.parquet")}
    assert set(add(str(study), entry).values()) == {0}
    assert {path.name: path.read_bytes() for path in entry.glob("*.parquet")} == before


def test_a_study_that_was_made_again_is_refused(study: Path, entry: Path):
    path = study / "evaluate" / "bids" / "sums.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "loss", [[9.0] * len(table)]), path)
    with pytest.raises(InputError, match="bids, sums, a is not what the study has"):
        add(str(study), entry)


def test_it_has_no_path_of_a_machine(study: Path, entry: Path):
    assert str(study) not in (entry / "study.yaml").read_text()
    config = {"out": "/a/b", "root": "/c", "model": {"name": "/m/SmolLM2"}, "pool": [{"path": "pool/x.jsonl"}]}
    assert without_paths(config) == {
        "out": "OUT", "root": "DATA", "model": {"name": "SmolLM2"}, "pool": [{"path": "pool/x.jsonl"}],
    }  # fmt: skip


def test_the_page_is_filled_between_its_marks_and_stays_as_it_is_elsewhere(entry: Path):
    page = "# Results\n\n<!-- evidence: near -->\nold\n<!-- end of evidence -->\n\nWhat it means.\n"
    once = filled(page, entry.parent)
    assert once.startswith("# Results\n\n<!-- evidence: near -->\n\n### Accuracy\n") and "### Held-out loss" in once
    assert "old" not in once and once.endswith("<!-- end of evidence -->\n\nWhat it means.\n")
    assert filled(once, entry.parent) == once


def test_targets_that_cannot_move_are_left_out_as_in_the_report(study: Path, tmp_path: Path):
    add_headroom(study, {"sums": {"loss": [1.0, 1.2, 0.9]}, "towns": {"loss": [1.0, -1.2, 0.9]}})
    entry = tmp_path / "ledger" / "near"
    add(str(study), entry)
    facts, losses, accuracy = collect(StudyRecord(str(study))), losses_of(entry), accuracy_of(entry)
    assert losses.cannot_move == accuracy.cannot_move == ["towns"]
    assert losses.losses == facts.losses and accuracy.scores == facts.accuracy.scores
    assert accuracy.probability == facts.accuracy.probability
    assert "towns (cannot move)" in filled("<!-- evidence: near -->\n<!-- end of evidence -->\n", entry.parent)
    # It is kept as it was when the arms were compared, and with it all else.
    before = {path.name: path.read_bytes() for path in entry.iterdir()}
    for run in ("bids", "smart"):
        path = study / "evaluate" / run / "sums.parquet"
        table = pq.read_table(path)
        pq.write_table(table.set_column(0, "id", [[f"{name}2" for name in table["id"].to_pylist()]]), path)
    add_headroom(study, {"sums": {"loss": [1.0, -1.2, 0.9]}, "towns": {"loss": [1.0, -1.2, 0.9]}})
    with pytest.raises(InputError, match="headroom.json is not what the study has"):
        add(str(study), entry)
    assert {path.name: path.read_bytes() for path in entry.iterdir()} == before


def test_other_targets_can_be_left_out(entry: Path):
    whole, part = accuracy_of(entry), accuracy_of(entry, ["towns"])
    assert (whole.cannot_move, part.cannot_move, losses_of(entry, ["towns"]).cannot_move) == ([], ["towns"], ["towns"])
    assert part.scores["bids"]["mean"] == part.scores["bids"]["sums"]
    assert "towns (cannot move)" in tables(entry, ["towns"]) and "cannot move" not in tables(entry)


def test_a_study_of_several_budgets_is_refused(tmp_path: Path):
    study = make_study(tmp_path / "tiny", budget=[4, 2])
    with pytest.raises(InputError, match="several budgets; the ledger compares arms of one, add a study of each"):
        add(str(study), tmp_path / "ledger")
    assert not (tmp_path / "ledger").exists()


def test_bug_a_selection_without_rows_could_not_be_added(study: Path, tmp_path: Path):
    path = study / "select" / "bids" / "selected.parquet"
    pq.write_table(pq.read_table(path)[:0], path)
    add(str(study), tmp_path / "ledger")
    assert set(pq.read_table(tmp_path / "ledger" / "selections.parquet")["selection"].to_pylist()) == {
        "random",
        "smart",
    }


def test_ids_are_kept_in_pick_order(study: Path, entry: Path):
    table = pq.read_table(entry / "selections.parquet").to_pylist()
    assert [row["id"] for row in table if row["selection"] == "bids"] == ["row03", "row04", "row05", "row06"]
    assert json.loads((study / "select/bids/manifest.json").read_text())["result"]["rows"] == 4
