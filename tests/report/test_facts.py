import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.report.facts.gather import gather
from instsel.report.facts.pool import facet_of
from instsel.report.facts.reading import texts
from instsel.report.facts.record import Record
from instsel.report.page.methods import budgets_section
from instsel.selection.influence import aid, thi
from tests.report.conftest import INFLUENCE, PICKS

TARGET_OF = np.array(["sums", "towns", "sums", "towns"])


def test_a_finished_study_lacks_nothing_and_raises_no_doubt(made):
    facts = gather(Record(str(made)))
    assert facts["missing"] == [] and facts["doubts"] == []
    assert facts["best"] == "smart" and facts["baseline"] == "random"
    assert facts["losses"]["smart"]["sums"] == pytest.approx(1.2)
    assert facts["differences"]["smart"]["mean"]["difference"] == pytest.approx(-1.0)


def test_the_makeup_of_a_selection_is_what_its_rows_are(made):
    composition = gather(Record(str(made)))["makeup"]
    assert composition["source"]["names"] == ["left", "right<b>"]
    assert composition["source"]["pool"] == [6, 6]
    assert composition["source"]["selections"]["bids"] == [3, 1]
    # Rows 0 to 11 have 20 tokens times their number: the bounds are inclusive.
    assert composition["length"]["pool"][:3] == [4, 3, 5]
    assert sum(composition["task"]["selections"]["smart"]) == 4


def test_overlap_is_the_share_of_the_row_selection_that_the_other_has(made):
    overlap = gather(Record(str(made)))["overlap"]
    place = {name: number for number, name in enumerate(overlap["names"])}
    assert overlap["shares"][place["bids"]][place["random"]] == 0.25
    assert overlap["shares"][place["bids"]][place["smart"]] == 0.0
    assert overlap["shares"][place["bids"]][place["bids"]] == 1.0


def test_influence_figures_agree_with_a_plain_computation(made):
    found = gather(Record(str(made)))["influence"]
    matrix = INFLUENCE.astype(np.float64)
    standard = (matrix - matrix.mean(axis=0)) / matrix.std(axis=0)
    by_target = np.stack([matrix[:, name == TARGET_OF].mean(axis=1) for name in found["targets"]], axis=1)
    assert np.allclose(found["raw"], [by_target[:6].mean(axis=0), by_target[6:].mean(axis=0)])
    for name, places in PICKS.items():
        own = found["selections"][name]
        assert np.allclose(own["aid_raw"], aid(matrix, np.array(places)))
        assert np.allclose(own["aid_normal"], aid(standard, np.array(places)))
        assert own["thi_raw"] == thi(matrix, np.array(places), TARGET_OF).tolist()
        assert own["thi_normal"] == thi(standard, np.array(places), TARGET_OF).tolist()


def test_rows_to_read_are_the_picks_with_the_highest_influence(made):
    record = Record(str(made))
    reading = gather(record)["reading"]
    standard = (INFLUENCE - INFLUENCE.mean(axis=0)) / INFLUENCE.std(axis=0)
    chosen = sorted({place for places in PICKS.values() for place in places})
    on_towns = standard[:, TARGET_OF == "towns"].mean(axis=1)
    best = max(chosen, key=lambda place: on_towns[place])
    assert reading["best"]["towns"][0] == f"row{best:02d}"
    assert reading["rows"][f"row{best:02d}"]["helps"]["towns"] == pytest.approx(on_towns[best], rel=1e-5)
    assert [pick["selection"] for pick in reading["rows"]["row03"]["picks"]] == ["random", "bids"]
    assert texts(record, reading["rows"])["row03"][1] == {"role": "assistant", "content": "yes"}


def test_the_parts_of_a_divided_budget_come_in_the_order_of_their_first_pick(made):
    parts = gather(Record(str(made)))["parts"]
    assert list(parts) == ["smart"]
    assert [(one["name"], one["weight"], one["rows"], one["gain"]) for one in parts["smart"]["parts"]] == [
        ("task left", 2.5, 2, 7.0),
        ("task <right>", 1.25, 2, 3.0),
    ]


def test_the_components_of_g2is_have_their_shares_of_the_variance(made):
    folder = Folder.at(made) / "select/smart"
    manifest = folder.read_json("manifest.json")
    manifest["config"]["method"] = "g2is"
    manifest["result"] |= {"component_shares": {"1": 0.5, "2": 0.25, "10": 0.25}}
    folder.write_json("manifest.json", manifest)
    table = folder.read_table("selected.parquet")
    reasons = pa.array([f"principal component {number}" for number in (1, 1, 10, 10)])
    folder.write_table("selected.parquet", table.set_column(table.column_names.index("reason"), "reason", reasons))
    facts = gather(Record(str(made)))
    parts = facts["parts"]["smart"]["parts"]
    assert [(one["name"], one["weight"]) for one in parts] == [
        ("principal component 1", 0.5),
        ("principal component 10", 0.25),
    ]
    shown = str(budgets_section(facts))
    assert "share of the variance" in shown and "A score is the cosine" in shown and "gain of the task" not in shown


def test_refused_rows_are_counted_and_shown(made):
    refused = gather(Record(str(made)))["refused"]
    assert refused["counts"] == {"no answer": 2}
    assert [line["line"] for line in refused["examples"]] == [1, 2]


def test_an_unfinished_study_says_what_is_missing_and_keeps_the_rest(make, tmp_path):
    facts = gather(Record(str(make(tmp_path / "half", until="select"))))
    assert facts["missing"][0] == "finetune/random" and "evaluate/base" in facts["missing"]
    assert facts["losses"] == {} and facts["best"] is None
    assert facts["makeup"]["source"]["selections"]["bids"] == [3, 1]


def test_a_study_without_a_finished_stage_has_empty_facts(made):
    for name in ("prepare", "select", "attribution", "features", "finetune", "evaluate", "embed", "warmup"):
        shutil.rmtree(made / name)
    facts = gather(Record(str(made)))
    assert facts["pool"] is None and facts["makeup"] == {} and facts["cost"] == {}
    assert "prepare" in facts["missing"]


def test_edited_results_are_told(made):
    path = made / "select" / "bids" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "config": {**manifest["config"], "budget": 5}}))
    pq.write_table(pa.table({"id": list("abcde"), "loss": [0.1] * 5}), made / "evaluate" / "smart" / "sums.parquet")
    table = pq.read_table(made / "select" / "smart" / "selected.parquet")
    pq.write_table(table.slice(0, 3), made / "select" / "smart" / "selected.parquet")
    warnings = " ".join(gather(Record(str(made)))["doubts"])
    assert "select/bids/manifest.json was edited" in warnings
    assert "evaluate/smart/sums.parquet was edited" in warnings
    assert "select/smart/selected.parquet has 3 rows" in warnings


def test_a_stage_of_another_parent_is_told(made):
    manifest = json.loads((made / "prepare" / "manifest.json").read_text())
    (made / "prepare" / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": "0" * 16}))
    warnings = gather(Record(str(made)))["doubts"]
    assert any("select/random was made from another prepare" in one for one in warnings)


def test_bug_stages_of_another_study_file_raised_no_doubt(made):
    for place, key, value in (
        ("select/bids", "budget", 5),
        ("select/random", "budget", 5),
        ("warmup", "lora", {"rank": 3}),
    ):
        path = made / place / "manifest.json"
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps({**manifest, "config": {**manifest["config"], key: value}}))
    warnings = gather(Record(str(made)))["doubts"]
    assert "select/random, select/bids: made by another study file, with other budget" in warnings
    assert "warmup: made by another study file, with other lora.rank" in warnings


def test_bug_rows_that_the_pool_has_no_more_counted_as_its_last_one(made):
    index = pq.read_table(made / "prepare" / "index.parquet")
    pq.write_table(index.slice(2), made / "prepare" / "index.parquet")
    facts = gather(Record(str(made)))
    assert sum(facts["makeup"]["source"]["selections"]["random"]) == len(PICKS["random"]) - 2
    assert facts["lengths"]["random"]["rows"] == len(PICKS["random"]) - 2
    others = pa.array([f"other{number}" for number in range(len(index))])
    pq.write_table(index.set_column(index.column_names.index("id"), "id", others), made / "prepare" / "index.parquet")
    facts = gather(Record(str(made)))
    assert facts["influence"] == {} and facts["reading"]["rows"] == {}


def test_runs_on_other_heldout_rows_are_left_out_and_told(made):
    def rewrite(run, **columns):
        table = {"id": list("abcde"), "loss": [0.1] * 5, **columns}
        pq.write_table(pa.table(table), made / "evaluate" / run / "sums.parquet")

    rewrite("bids", id=list("abced"))
    rewrite("random", loss=[0.1, 0.2, 0.3, 0.4, float("nan")])
    facts = gather(Record(str(made)))
    assert set(facts["losses"]) == {"base", "smart"} and facts["baseline"] == "base"
    told = " ".join(facts["doubts"])
    assert "evaluate/bids is left out: its held-out rows of sums are not those of base" in told
    assert "evaluate/random is left out: sums.parquet has a loss that is no number, or none" in told


@pytest.mark.parametrize(
    "name", ["config.json", "prepare/manifest.json", "prepare/index.parquet", "evaluate/bids/sums.parquet"]
)
def test_a_file_that_is_cut_off_is_named(made, name):
    content = (made / name).read_bytes()
    (made / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"{name} is damaged"):
        gather(Record(str(made)))


def test_a_manifest_of_something_else_is_named_and_a_lost_table_is_told(made):
    (made / "evaluate" / "bids" / "sums.parquet").unlink()
    assert any("sums.parquet is gone" in one for one in gather(Record(str(made)))["doubts"])
    (made / "select" / "bids" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="select/bids/manifest.json is no manifest"):
        gather(Record(str(made)))


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(InputError, match="no study folder"):
        Record(str(tmp_path))


def test_a_facet_has_its_names_in_order_and_a_code_a_row():
    facet = facet_of(pa.chunked_array([["b", "a"], ["b"]]))
    assert facet.names == ["a", "b"] and facet.codes.tolist() == [1, 0, 1]


def test_a_name_in_a_manifest_leads_to_no_file_outside(made):
    path = made / "evaluate" / "base" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["result"]["losses"]["../../../away"] = 1.0
    path.write_text(json.dumps(manifest))
    pq.write_table(pa.table({"loss": [9.0]}), made.parent / "away.parquet")
    facts = gather(Record(str(made)))
    assert "away" not in json.dumps(facts)


def test_what_a_former_study_file_left_is_no_part_of_the_study(made):
    left = made / "select" / "former"
    shutil.copytree(made / "select" / "bids", left)
    (left / "manifest.json").write_text((left / "manifest.json").read_text().replace("select/bids", "select/former"))
    shutil.copytree(made / "embed", made / "hidden_states")
    facts = gather(Record(str(made)))
    assert "former" not in facts["selections"] and "hidden_states" not in facts["cost"] and facts["doubts"] == []


@pytest.mark.parametrize("name", ["../away", "select/..", "select/../../away", "/away"])
def test_a_parent_that_is_no_stage_is_not_looked_at(made, name):
    place = made / "prepare" / "manifest.json"
    manifest = json.loads(place.read_text())
    place.write_text(json.dumps({**manifest, "parents": {name: "0"}}))
    away = made.parent / "away"
    away.mkdir()
    (away / "manifest.json").write_text(json.dumps({**manifest, "parents": {}}))
    assert name not in Record(str(made)).manifests
