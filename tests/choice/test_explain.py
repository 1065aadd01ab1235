"""A row's place in every selection, and the validation rows that it helps and hurts."""

import pytest

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


def standing(found, name):
    return next(one for one in found.standings if one.selection == name)


def test_a_chosen_row_has_its_rank_score_and_reason(every_method, matrix):
    order = bids.select(matrix.values, 6)
    row = matrix.ids[order.indices[2]]
    place = standing(explain(every_method["out"], row), "bids")
    assert (place.rank, place.chosen, place.is_chosen) == (3, 6, True)
    assert place.score == pytest.approx(order.scores[2])
    assert place.reason.startswith("validation example ")


def test_a_row_that_was_not_chosen_has_the_rank_it_would_have(every_method, matrix):
    order = bids.select(matrix.values, 24)
    row = matrix.ids[order.indices[15]]
    found = explain(every_method["out"], row)
    place = standing(found, "bids")
    assert (place.rank, place.is_chosen, place.reason) == (16, False, None)
    assert all(one.rank is None for one in found.standings if one.selection in {"g2is", "smart"} and not one.is_chosen)
    assert {one.selection for one in found.standings} >= {"random-0", "random-1", "less", "bids-fisher", "log_det"}


def test_validation_rows_are_those_with_the_highest_and_lowest_influence(every_method, matrix):
    row = matrix.ids[5]
    found = explain(every_method["out"], row)
    values = dict(zip(matrix.columns["id"].to_pylist(), matrix.values[5].tolist(), strict=True))
    ranked = sorted(values, key=lambda name: -values[name])
    assert [effect.example for effect in found.helped] == ranked[:5]
    assert [effect.example for effect in found.hurt] == ranked[::-1][:5]
    assert found.helped[0].influence == pytest.approx(values[ranked[0]])
    assert found.influence == "cosine" and found.helped[0].prompt


def test_selections_made_anew_are_told_too(every_method, matrix, say):
    reselect(every_method["out"], SelectionRequest("longest", "24", name="all"), say)
    assert standing(explain(every_method["out"], matrix.ids[0]), "all").is_chosen


def test_a_row_that_is_not_there_is_refused(every_method):
    with pytest.raises(InputError, match="has no pool row 'nobody'; ids are in"):
        explain(every_method["out"], "nobody")


def test_what_is_told_has_the_row_its_places_and_its_effects(every_method, matrix):
    text = row_explanation(explain(every_method["out"], matrix.ids[0]))
    assert f"**{matrix.ids[0]}**: source " in text
    assert "| selection | rank | of | score | why |" in text
    assert "Helps most (cosine" in text and "Helps least, or hurts most" in text
    assert text.count("| sums:") + text.count("| cities:") == 10


def test_selections_of_another_pool_or_left_half_written_are_not_told(every_method, matrix, say):
    folder = reselect(every_method["out"], SelectionRequest("longest", "24", name="stale"), say).folder
    manifest = folder.read_json("manifest.json")
    folder.write_json("manifest.json", {**manifest, "prepare": "another"})
    (Folder.at(every_method["out"]) / "selections/half").write("selected.jsonl", b"")
    names = {one.selection for one in explain(every_method["out"], matrix.ids[0]).standings}
    assert not names & {"stale", "half"}
