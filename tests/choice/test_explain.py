"""A row's rank in every selection, and the validation rows that it helps and hurts."""

import pytest

import instsel
from instsel.choice.explain import explain
from instsel.choice.reselect import SelectionRequest, reselect
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.report.explanation import row_explanation
from instsel.selection import bids
from instsel.selection.base import AttributionSpec
from instsel.study.reader import StudyReader


@pytest.fixture(scope="module")
def matrix(every_method):
    return StudyReader(Folder.at(every_method["out"])).influence(AttributionSpec("cosine", None))


def standing(result, name):
    return next(each for each in result.standings if each.selection == name)


def test_a_chosen_row_has_its_rank_score_and_reason(every_method, matrix):
    order = bids.select(matrix.values, 6)
    row = matrix.ids[order.indices[2]]
    entry = standing(explain(every_method["out"], row), "bids")
    assert (entry.rank, entry.chosen, entry.is_chosen) == (3, 6, True)
    assert entry.score == pytest.approx(order.scores[2])
    assert entry.reason.startswith("validation example ")


def test_a_row_that_a_target_chose_by_its_quota_says_so(every_method, matrix):
    targets, subtasks = (matrix.columns[key].to_pylist() for key in ("target", "subtask"))
    options = {"quotas": "equal", "targets": targets, "subtasks": subtasks}
    order = instsel.select("less", matrix.values, 24, **options).indices
    entry = standing(explain(every_method["out"], matrix.ids[order[1]]), "less-quotas")
    # Targets have their turns in sorted order.
    assert entry.rank == 2 and entry.reason.startswith("quota of sums: subtask sums")
    # With equal quotas a larger budget goes on; with others it ends the turns of the smaller ones later.
    result = explain(every_method["out"], matrix.ids[order[15]])
    assert standing(result, "less-quotas").rank == 16
    missing = next(
        row for row in matrix.ids if not standing(explain(every_method["out"], row), "bids-quotas").is_chosen
    )
    assert standing(explain(every_method["out"], missing), "bids-quotas").rank is None


def test_a_row_that_was_not_chosen_has_the_rank_it_would_have(every_method, matrix):
    order = bids.select(matrix.values, 24)
    row = matrix.ids[order.indices[15]]
    result = explain(every_method["out"], row)
    entry = standing(result, "bids")
    assert (entry.rank, entry.is_chosen, entry.reason) == (16, False, None)
    assert all(
        each.rank is None for each in result.standings if each.selection in {"g2is", "smart"} and not each.is_chosen
    )
    assert {each.selection for each in result.standings} >= {"random-0", "random-1", "less", "bids-fisher", "log_det"}


def test_validation_rows_are_those_with_the_highest_and_lowest_influence(every_method, matrix):
    row = matrix.ids[5]
    result = explain(every_method["out"], row)
    values = dict(zip(matrix.columns["id"].to_pylist(), matrix.values[5].tolist(), strict=True))
    ranked = sorted(values, key=lambda name: -values[name])
    assert [effect.example for effect in result.helped] == ranked[:5]
    assert [effect.example for effect in result.hurt] == ranked[::-1][:5]
    assert result.helped[0].influence == pytest.approx(values[ranked[0]])
    assert result.influence == "cosine" and result.helped[0].prompt


def test_selections_below_the_study_are_there_too(every_method, matrix, say):
    reselect(every_method["out"], SelectionRequest("longest", "24", name="all"), say)
    assert standing(explain(every_method["out"], matrix.ids[0]), "all").is_chosen


def test_a_row_that_is_not_there_is_refused(every_method):
    with pytest.raises(InputError, match="has no pool row 'nobody'; ids are in"):
        explain(every_method["out"], "nobody")


def test_the_text_has_the_row_its_ranks_and_its_effects(every_method, matrix):
    text = row_explanation(explain(every_method["out"], matrix.ids[0]))
    assert f"**{matrix.ids[0]}**: source " in text
    assert "| selection | rank | of | score | why |" in text
    assert "Helps most (cosine" in text and "Helps least, or hurts most" in text
    assert text.count("| sums:") + text.count("| cities:") == 10


def test_selections_of_another_pool_or_left_half_written_are_not_shown(every_method, matrix, say):
    folder = reselect(every_method["out"], SelectionRequest("longest", "24", name="stale"), say).folder
    manifest = folder.read_json("manifest.json")
    folder.write_json("manifest.json", {**manifest, "prepare": "another"})
    (Folder.at(every_method["out"]) / "selections/half").write("selected.jsonl", b"")
    names = {each.selection for each in explain(every_method["out"], matrix.ids[0]).standings}
    assert not names & {"stale", "half"}
