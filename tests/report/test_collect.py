import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.report.collect import as_json, collect
from instsel.report.page.selections import budgets_section
from instsel.report.pool import facet_of
from instsel.report.reading import read_texts
from instsel.report.record import StudyRecord
from instsel.selection.influence import aid, thi
from tests.report.conftest import INFLUENCE, PICKS

TARGET_OF = np.array(["sums", "towns", "sums", "towns"])


def facts_of(folder):
    return collect(StudyRecord(str(folder)))


def test_a_finished_study_lacks_nothing_and_raises_no_warning(study_folder):
    facts = facts_of(study_folder)
    assert facts.missing == [] and facts.warnings == []
    assert facts.best == "smart" and facts.baseline == "random"
    assert facts.not_told_apart == ["smart"]
    assert facts.losses["smart"]["sums"] == pytest.approx(1.2)
    assert facts.differences["smart"]["mean"].difference == pytest.approx(-1.0)
    # Three differences without any variance and 200 resamples: Holm multiplies the smallest by 3.
    assert facts.adjusted_p["smart"]["mean"] == pytest.approx(3 * 2 / 201)
    assert facts.outcome("smart", "sums") == "better" and facts.outcome("base", "mean") == "worse"
    assert facts.outcome("random", "mean") == "undecided"


def test_too_few_resamples_for_any_difference_are_a_warning(study_folder):
    config = json.loads((study_folder / "config.json").read_text())
    config["evaluation"]["bootstrap_samples"] = 100
    (study_folder / "config.json").write_text(json.dumps(config))
    facts = facts_of(study_folder)
    assert (
        "bootstrap_samples is 100: with 3 methods to compare, no difference can be significant with fewer than 119"
        in (" ".join(facts.warnings))
    )
    assert facts.outcome("smart", "mean") == "undecided" and facts.not_told_apart == ["smart"]


def test_methods_of_equal_losses_are_not_told_apart(study_folder):
    for target in ("sums", "towns"):
        shutil.copy(study_folder / f"evaluate/bids/{target}.parquet", study_folder / f"evaluate/smart/{target}.parquet")
    facts = facts_of(study_folder)
    assert facts.best == "bids" and facts.not_told_apart == ["bids", "smart"]


def test_the_composition_of_a_selection_counts_its_rows(study_folder):
    composition = facts_of(study_folder).composition
    assert composition["source"].names == ["left", "right<b>"]
    assert composition["source"].pool == [6, 6]
    assert composition["source"].selections["bids"] == [3, 1]
    # Rows 0 to 11 have 20 tokens times their number: the bounds are inclusive.
    assert composition["length"].pool[:3] == [4, 3, 5]
    assert sum(composition["task"].selections["smart"]) == 4


def test_overlap_is_the_share_of_the_row_selection_that_the_other_has(study_folder):
    overlap = facts_of(study_folder).overlap
    index = {name: number for number, name in enumerate(overlap.names)}
    assert overlap.shares[index["bids"]][index["random"]] == 0.25
    assert overlap.shares[index["bids"]][index["smart"]] == 0.0
    assert overlap.shares[index["bids"]][index["bids"]] == 1.0


def test_influence_agrees_with_a_plain_computation(study_folder):
    influence = facts_of(study_folder).influence
    matrix = INFLUENCE.astype(np.float64)
    standard = (matrix - matrix.mean(axis=0)) / matrix.std(axis=0)
    by_target = np.stack([matrix[:, name == TARGET_OF].mean(axis=1) for name in influence.targets], axis=1)
    assert np.allclose(influence.raw, [by_target[:6].mean(axis=0), by_target[6:].mean(axis=0)])
    for name, picks in PICKS.items():
        selection = influence.selections[name]
        assert np.allclose(selection.aid_raw, aid(matrix, np.array(picks)))
        assert np.allclose(selection.aid_normal, aid(standard, np.array(picks)))
        assert selection.thi_raw == thi(matrix, np.array(picks), TARGET_OF).tolist()
        assert selection.thi_normal == thi(standard, np.array(picks), TARGET_OF).tolist()


def test_rows_to_read_are_the_picks_with_the_highest_influence(study_folder):
    record = StudyRecord(str(study_folder))
    reading = collect(record).reading
    standard = (INFLUENCE - INFLUENCE.mean(axis=0)) / INFLUENCE.std(axis=0)
    chosen = sorted({row for picks in PICKS.values() for row in picks})
    on_towns = standard[:, TARGET_OF == "towns"].mean(axis=1)
    best = max(chosen, key=lambda row: on_towns[row])
    assert reading.best["towns"][0] == f"row{best:02d}"
    assert reading.rows[f"row{best:02d}"].helps["towns"] == pytest.approx(on_towns[best], rel=1e-5)
    assert [pick.selection for pick in reading.rows["row03"].picks] == ["random", "bids"]
    assert read_texts(record, reading.rows)["row03"][1] == {"role": "assistant", "content": "yes"}


def test_the_parts_of_a_divided_budget_come_in_the_order_of_their_first_pick(study_folder):
    budgets = facts_of(study_folder).budgets
    assert list(budgets) == ["smart"]
    assert [(part.name, part.weight, part.rows, part.gain) for part in budgets["smart"].parts] == [
        ("task left", 2.5, 2, 7.0),
        ("task <right>", 1.25, 2, 3.0),
    ]


def test_the_components_of_g2is_have_their_shares_of_the_variance(study_folder):
    folder = Folder.at(study_folder) / "select/smart"
    manifest = folder.read_json("manifest.json")
    manifest["settings"]["method"] = "g2is"
    manifest["result"] |= {"component_shares": {"1": 0.5, "2": 0.25, "10": 0.25}}
    folder.write_json("manifest.json", manifest)
    table = folder.read_table("selected.parquet")
    reasons = pa.array([f"principal component {number}" for number in (1, 1, 10, 10)])
    folder.write_table("selected.parquet", table.set_column(table.column_names.index("reason"), "reason", reasons))
    facts = facts_of(study_folder)
    assert [(part.name, part.weight) for part in facts.budgets["smart"].parts] == [
        ("principal component 1", 0.5),
        ("principal component 10", 0.25),
    ]
    shown = str(budgets_section(facts))
    assert "share of the variance" in shown and "A score is the cosine" in shown and "gain of the task" not in shown


def test_rejected_rows_are_counted_and_shown(study_folder):
    rejected = facts_of(study_folder).rejected
    assert rejected.counts == {"no answer": 2}
    assert [row.line for row in rejected.examples] == [1, 2]


def test_an_unfinished_study_says_what_is_missing_and_keeps_the_rest(make_study_folder, tmp_path):
    facts = facts_of(make_study_folder(tmp_path / "half", until="select"))
    assert facts.missing[0] == "finetune/random" and "evaluate/base" in facts.missing
    assert facts.losses == {} and facts.best is None
    assert facts.composition["source"].selections["bids"] == [3, 1]


def test_a_study_without_a_finished_stage_has_empty_facts(study_folder):
    for name in ("prepare", "select", "attribution", "features", "finetune", "evaluate", "embed", "warmup"):
        shutil.rmtree(study_folder / name)
    facts = facts_of(study_folder)
    assert facts.pool is None and facts.composition == {} and facts.cost == {}
    assert "prepare" in facts.missing


def test_edited_results_are_named(study_folder):
    path = study_folder / "select" / "bids" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "settings": {**manifest["settings"], "budget": 5}}))
    pq.write_table(
        pa.table({"id": list("abcde"), "loss": [0.1] * 5}), study_folder / "evaluate" / "smart" / "sums.parquet"
    )
    table = pq.read_table(study_folder / "select" / "smart" / "selected.parquet")
    pq.write_table(table.slice(0, 3), study_folder / "select" / "smart" / "selected.parquet")
    warnings = " ".join(facts_of(study_folder).warnings)
    assert "select/bids/manifest.json was edited" in warnings
    assert "evaluate/smart/sums.parquet was edited" in warnings
    assert "select/smart/selected.parquet has 3 rows" in warnings


def test_a_stage_of_another_parent_is_named(study_folder):
    manifest = json.loads((study_folder / "prepare" / "manifest.json").read_text())
    (study_folder / "prepare" / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": "0" * 16}))
    warnings = facts_of(study_folder).warnings
    assert any("select/random was made from another prepare" in warning for warning in warnings)


def test_bug_stages_of_another_study_file_raised_no_warning(study_folder):
    for stage, key, value in (
        ("select/bids", "budget", 5),
        ("select/random", "budget", 5),
        ("warmup", "lora", {"rank": 3}),
    ):
        path = study_folder / stage / "manifest.json"
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps({**manifest, "settings": {**manifest["settings"], key: value}}))
    warnings = facts_of(study_folder).warnings
    assert "select/random, select/bids: made by another study file, with other budget" in warnings
    assert "warmup: made by another study file, with other lora.rank" in warnings


def test_bug_rows_that_the_pool_has_no_more_counted_as_its_last_one(study_folder):
    index = pq.read_table(study_folder / "prepare" / "index.parquet")
    pq.write_table(index.slice(2), study_folder / "prepare" / "index.parquet")
    facts = facts_of(study_folder)
    assert sum(facts.composition["source"].selections["random"]) == len(PICKS["random"]) - 2
    assert facts.lengths["random"].rows == len(PICKS["random"]) - 2
    others = pa.array([f"other{number}" for number in range(len(index))])
    pq.write_table(
        index.set_column(index.column_names.index("id"), "id", others), study_folder / "prepare" / "index.parquet"
    )
    facts = facts_of(study_folder)
    assert facts.influence is None and facts.reading.rows == {}


def test_runs_on_other_heldout_rows_are_ignored_and_named(study_folder):
    def rewrite(run, **columns):
        table = {"id": list("abcde"), "loss": [0.1] * 5, **columns}
        pq.write_table(pa.table(table), study_folder / "evaluate" / run / "sums.parquet")

    rewrite("bids", id=list("abced"))
    rewrite("random", loss=[0.1, 0.2, 0.3, 0.4, float("nan")])
    facts = facts_of(study_folder)
    assert set(facts.losses) == {"base", "smart"} and facts.baseline == "base"
    warnings = " ".join(facts.warnings)
    assert "evaluate/bids is ignored: its held-out rows of sums are not those of base" in warnings
    assert "evaluate/random is ignored: sums.parquet has a loss that is not finite, or none" in warnings


@pytest.mark.parametrize(
    "name", ["config.json", "prepare/manifest.json", "prepare/index.parquet", "evaluate/bids/sums.parquet"]
)
def test_a_file_that_is_cut_off_is_named(study_folder, name):
    content = (study_folder / name).read_bytes()
    (study_folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"{name} is damaged"):
        facts_of(study_folder)


def test_a_manifest_of_something_else_is_named_and_a_lost_table_too(study_folder):
    (study_folder / "evaluate" / "bids" / "sums.parquet").unlink()
    assert any("sums.parquet is gone" in warning for warning in facts_of(study_folder).warnings)
    (study_folder / "select" / "bids" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="select/bids/manifest.json is no manifest"):
        facts_of(study_folder)


def test_a_folder_that_is_no_study_is_rejected(tmp_path):
    with pytest.raises(InputError, match="no study folder"):
        StudyRecord(str(tmp_path))


def test_a_facet_has_its_names_in_order_and_a_code_a_row():
    facet = facet_of(pa.chunked_array([["b", "a"], ["b"]]))
    assert facet.names == ["a", "b"] and facet.codes.tolist() == [1, 0, 1]


def test_a_name_in_a_manifest_leads_to_no_file_outside(study_folder):
    path = study_folder / "evaluate" / "base" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["result"]["losses"]["../../../away"] = 1.0
    path.write_text(json.dumps(manifest))
    pq.write_table(pa.table({"loss": [9.0]}), study_folder.parent / "away.parquet")
    facts = facts_of(study_folder)
    assert "away" not in json.dumps(as_json(facts))


def test_what_a_former_study_file_left_is_no_part_of_the_study(study_folder):
    left = study_folder / "select" / "former"
    shutil.copytree(study_folder / "select" / "bids", left)
    (left / "manifest.json").write_text((left / "manifest.json").read_text().replace("select/bids", "select/former"))
    shutil.copytree(study_folder / "embed", study_folder / "hidden_states")
    facts = facts_of(study_folder)
    assert "former" not in facts.selections and "hidden_states" not in facts.cost and facts.warnings == []


@pytest.mark.parametrize("name", ["../away", "select/..", "select/../../away", "/away"])
def test_a_parent_that_is_no_stage_is_not_read(study_folder, name):
    path = study_folder / "prepare" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "parents": {name: "0"}}))
    away = study_folder.parent / "away"
    away.mkdir()
    (away / "manifest.json").write_text(json.dumps({**manifest, "parents": {}}))
    assert name not in StudyRecord(str(study_folder)).manifests
