"""A new selection from a study's folder is the study's own, or of another budget, method or targets."""

import json
import shutil
from pathlib import Path

import pytest

from instsel.choice.reselect import SelectionRequest, reselect
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.report.explanation import selection_summary

SAME = {
    "longest": SelectionRequest("longest", "6"),
    "ifd": SelectionRequest("ifd", "0.25"),
    "rds": SelectionRequest("rds", "6"),
    "less": SelectionRequest("less", "6"),
    "less-means": SelectionRequest("less", "6", options=["average=gradients"]),
    "bids": SelectionRequest("bids", "6"),
    "round_robin": SelectionRequest("round_robin", "6"),
    "bm25": SelectionRequest("bm25", "6"),
    "bids-fisher": SelectionRequest("bids", "6", attribution="fisher"),
    "bids-sums": SelectionRequest("bids", "6", targets=["sums"]),
    "less-quotas": SelectionRequest("less", "6", options=["quotas=equal"]),
    "random-lengths": SelectionRequest("random", "6", options=["lengths_of=bids"]),
    "bids-quotas": SelectionRequest("bids", "6", options=["quotas={sums: 0.7, cities: 0.3}"], name="by-quotas"),
    "g2is": SelectionRequest("g2is", "6", options=["fill=similarity"]),
    "smart": SelectionRequest("smart", "6"),
    "log_det": SelectionRequest("log_det", "6"),
    "random-1": SelectionRequest("random", "6", options=["seeds=[1]"]),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_request_gives_the_studys_own_selection(name, every_method, say):
    reselection = reselect(every_method["out"], SAME[name], say)
    stored = Folder.at(every_method["out"]) / "select" / name
    assert reselection.folder.read_table("selected.parquet").equals(stored.read_table("selected.parquet"))
    assert reselection.folder.read("selected.jsonl") == stored.read("selected.jsonl")
    assert (
        reselection.result.rows == 6
        and reselection.result.tokens == stored.read_json("manifest.json")["result"]["tokens"]
    )
    assert set(reselection.metrics.served) == {"sums", "cities"}


@pytest.mark.parametrize("method", ["random-extra", "validation_only", "full_pool"])
def test_arms_of_a_finished_study_are_trained_on_the_same_rows(method, every_method, say):
    options = ["extra_for=bids"] if method == "random-extra" else []
    request = SelectionRequest(method.removesuffix("-extra"), "6", options=options, name="arm")
    reselection = reselect(every_method["out"], request, say)
    stored = Folder.at(every_method["out"]) / "select" / method
    assert reselection.result.to_dict() == stored.read_json("manifest.json")["result"]
    assert reselection.folder.read_table("training.arrow").equals(stored.read_table("training.arrow"))
    summary = selection_summary(reselection)
    assert ("An epoch trains on" in summary) is (method != "full_pool")
    assert ("- sources" in summary) is (method != "validation_only")


def test_a_name_that_the_study_does_not_have_is_refused_with_those_that_it_has(every_method, say):
    with pytest.raises(InputError, match="--set lengths_of=bidz: the study has no selection of that name; it has "):
        reselect(every_method["out"], SelectionRequest("random", "6", options=["lengths_of=bidz"]), say)


def test_it_needs_none_of_the_users_files(every_method, tmp_path, say):
    shutil.copytree(every_method["out"], tmp_path / "copy")
    config = json.loads((tmp_path / "copy/config.json").read_text())
    config |= {"root": "gone", "model": {"name": "gone"}, "embedding": {"encoder": "gone"}}
    (tmp_path / "copy/config.json").write_text(json.dumps(config))
    reselection = reselect(str(tmp_path / "copy"), SelectionRequest("bids", "3"), say)
    assert reselection.result.rows == 3


def test_a_budget_of_tokens_is_kept(every_method, say):
    reselection = reselect(every_method["out"], SelectionRequest("bids", "100", unit="tokens"), say)
    assert reselection.folder.path.endswith("/selections/bids-100tokens")
    order = reselect(every_method["out"], SelectionRequest("bids", "24"), say).folder.read_table(
        "selected.parquet", ["tokens"]
    )
    held = order["tokens"].to_numpy().cumsum()
    assert reselection.result.tokens == held[held <= 100][-1] and reselection.result.rows == (held <= 100).sum()
    assert (
        sum(reselection.folder.read_table("selected.parquet", ["tokens"])["tokens"].to_pylist())
        == reselection.result.tokens
    )


def test_a_stochastic_choice_is_that_of_its_seed(every_method, say):
    def chosen(seed):
        request = SelectionRequest("facility_location", "6", options=["stochastic=0.5", f"seed={seed}"], name="drawn")
        return (
            reselect(every_method["out"], request, say).folder.read_table("selected.parquet", ["id"])["id"].to_pylist()
        )

    assert chosen(1) == chosen(1)
    assert len({tuple(chosen(seed)) for seed in range(4)}) > 1


def test_another_name_keeps_both(every_method, say):
    first = reselect(every_method["out"], SelectionRequest("sum", "2", name="a"), say)
    second = reselect(every_method["out"], SelectionRequest("sum", "3", name="b"), say)
    assert (Path(first.folder.path).name, Path(second.folder.path).name) == ("a", "b")
    assert first.folder.exists("selected.jsonl") and second.folder.exists("selected.jsonl")


def test_requests_that_differ_have_names_that_differ(every_method, say):
    requests = [
        SelectionRequest("less", "2"),
        SelectionRequest("less", "2", attribution="fisher"),
        SelectionRequest("less", "2", options=["average=gradients"]),
        SelectionRequest("less", "2", options=["seeds=[1]"]),
        SelectionRequest("less", "2", targets=["sums"]),
        SelectionRequest("less", "20", unit="tokens"),
    ]
    names = [reselect(every_method["out"], request, say).name for request in requests[:-1]]
    assert names == ["less-2", "less-2-fisher", "less-2-averagegradients", "less-2-seeds1", "less-2-sums"]
    with pytest.raises(InputError, match="first row chosen has more"):
        reselect(every_method["out"], requests[-1], say)


def test_a_budget_of_tokens_below_that_of_the_tasks_kept_is_searched_for(every_method, say):
    request = SelectionRequest("smart", "150", unit="tokens", options=["num_tasks=1"])
    reselection = reselect(every_method["out"], request, say)
    assert 0 < reselection.result.tokens <= 150 and len(reselection.result.sources) == 1
    with pytest.raises(InputError, match="smart-20-num_tasks1: "):
        reselect(every_method["out"], SelectionRequest("smart", "20", options=["num_tasks=1"]), say)


def test_what_a_method_warns_of_is_logged(every_method, say):
    reselect(every_method["out"], SelectionRequest("g2is", "24", options=["delta=1.0"], name="strict"), say)
    assert any(line.startswith("strict: ") for line in say.said)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (SelectionRequest("g2", "3"), "selection.methods.0: .*'g2is'"),
        (SelectionRequest("bids", "0"), "selection.budget: budget is 0"),
        (SelectionRequest("bids", "many"), "selection.budget: .*not 'many'"),
        (SelectionRequest("bids", "[2, 3]"), r"--budget \[2, 3\]: one selection is made, give one budget"),
        (SelectionRequest("bids", "25"), "selection.budget is 25 rows, but the pool has 24 usable ones; lower it"),
        (SelectionRequest("bids", "3", unit="words"), "selection.unit"),
        (SelectionRequest("bids", "3", targets=["law"]), "chooses for 'law'; targets are cities, sums"),
        (SelectionRequest("longest", "3", targets=["sums"]), "selection.methods.0.targets: unknown key"),
        (SelectionRequest("bids", "3", options=["lam=2"]), "selection.methods.0.lam: unknown key"),
        (SelectionRequest("bids", "3", options=["lam"]), "write it as key=value"),
        (SelectionRequest("bids", "3", attribution="dot"), "selection.methods.0.attribution"),
        (SelectionRequest("bids", "[1"), r"--budget \[1: write a count \(500\) or a share \(0.1\)"),
        (SelectionRequest("bids", "3", options=["name=5"]), "selection.methods.0.name: .*not 5"),
        (
            SelectionRequest("bids", "3", options=["damping=0.5"]),
            "has a damping, which only `attribution: fisher` reads",
        ),
        (SelectionRequest("random", "3", options=["seeds=[1,2]"]), "--set seeds: one selection is made, give one seed"),
        (SelectionRequest("random", "3", options=["seeds=[-1]"]), "selection.methods.0.seeds.0: .*not -1"),
        (SelectionRequest("bids", "3", options=[f"name={'x' * 9}", *["damping=0.1"] * 20]), "give one with --name"),
        (SelectionRequest("bids", "3", name="a/b"), "name 'a/b' is not usable"),
    ],
)
def test_a_wrong_request_is_refused_by_its_key(wrong, message, every_method, say):
    with pytest.raises(InputError, match=message):
        reselect(every_method["out"], wrong, say)


def test_a_study_without_what_the_method_reads_says_so(finished_study, say):
    with pytest.raises(InputError, match="no finished stage 'embed'; run the study with a method that reads it"):
        reselect(finished_study["out"], SelectionRequest("smart", "3"), say)


def test_a_folder_that_is_no_study_is_refused(tmp_path, say):
    with pytest.raises(InputError, match="is no study folder; give the `out` of a study that has run"):
        reselect(str(tmp_path), SelectionRequest("bids", "3"), say)
    (tmp_path / "study.json").write_text('{"name": "x", "format": 2}')
    with pytest.raises(InputError, match="has no config.json; run the study again with this version"):
        reselect(str(tmp_path), SelectionRequest("bids", "3"), say)
