"""A study from its file to its report, again without change, and with changed keys."""

from pathlib import Path

import pytest

from instsel.config.file import parse_study
from instsel.console import Terminal
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.pipeline.registry import build_graph
from instsel.pipeline.runner import run_study


def _graph(raw):
    return build_graph(parse_study(raw, "test"), Folder.at(raw["out"]))


def test_every_stage_is_done_and_reported(finished_study):
    graph = _graph(finished_study)
    assert all(stage.done() for stage in graph.until("report"))
    summary = graph["report"].folder.read_json("summary.json")
    assert set(summary["losses"]) == {"base", "random", "bids"}
    assert set(summary["losses"]["bids"]) == {"sums", "cities", "mean"}
    assert set(summary["differences"]["bids"]["mean"]) == {"difference", "low", "high"}
    assert all(cost["seconds"] > 0 for name, cost in summary["cost"].items() if name == "features")
    report = graph["report"].folder.read("report.md").decode()
    assert "| target | base | random | bids |" in report


def test_training_on_a_selection_lowers_the_heldout_loss(finished_study):
    summary = _graph(finished_study)["report"].folder.read_json("summary.json")
    assert all(summary["losses"][name]["mean"] < summary["losses"]["base"]["mean"] for name in ("random", "bids"))


def test_a_finished_study_does_nothing(finished_study, capsys):
    before = {path: path.stat().st_mtime_ns for path in Path(finished_study["out"]).rglob("manifest.json")}
    run_study(parse_study(finished_study, "test"), Terminal())
    after = {path: path.stat().st_mtime_ns for path in Path(finished_study["out"]).rglob("manifest.json")}
    assert "nothing to do" in capsys.readouterr().out
    assert before == after


@pytest.mark.parametrize(
    ("key", "value", "stale"),
    [
        ("finetune", {"epochs": 2}, ["finetune", "evaluate", "report"]),
        ("evaluation", {"bootstrap_samples": 200, "token_budget": 512}, ["report"]),
        ("resources", {"training_workers": 2}, []),
        ("features", {"dim": 128}, ["features", "attribution", "select", "finetune", "evaluate", "report"]),
    ],
)
def test_a_changed_key_makes_the_stages_after_it_stale(finished_study, key, value, stale):
    graph = _graph({**finished_study, key: value})
    redone = {stage.name.split("/")[0] for stage in graph.until("report") if not stage.done()}
    assert redone == set(stale)


def test_a_changed_method_leaves_the_others(finished_study):
    methods = ["random", {"method": "bids", "normalize": False}]
    graph = _graph({**finished_study, "selection": {"budget": 0.25, "methods": methods}})
    redone = {stage.name for stage in graph.until("report") if not stage.done()}
    assert redone == {"select/bids", "finetune/bids", "evaluate/bids", "report"}


def test_selected_rows_load_with_datasets(finished_study):
    from datasets import load_dataset

    folder = Path(finished_study["out"], "select", "bids")
    rows = load_dataset("json", data_files=str(folder / "selected.jsonl"), split="train", cache_dir=str(folder / ".hf"))
    assert len(rows) == 6
    assert rows[0]["messages"][-1]["role"] == "assistant"
    table = Folder.at(folder).read_table("selected.parquet")
    assert table["id"].to_pylist() == rows["id"]
    assert table["rank"].to_pylist() == list(range(6))
    assert all(reason.startswith("validation example ") for reason in table["reason"].to_pylist())


def test_adapters_load_with_peft(finished_study, tiny_model):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    for place in ("warmup/run/epoch-2", "finetune/bids/run/epoch-1"):
        base = AutoModelForCausalLM.from_pretrained(tiny_model)
        ids = torch.tensor([[3, 4, 5, 6]])
        plain = base(ids).logits
        model = PeftModel.from_pretrained(base, str(Path(finished_study["out"], place)))
        assert not torch.allclose(plain, model(ids).logits)


def test_a_budget_above_the_pool_is_refused(tiny_study, ray_session):
    raw = tiny_study(pool_rows=9, selection={"budget": 1000, "methods": ["random"]})
    with pytest.raises(InputError, match="selection.budget is 1000 rows, but the pool has 9"):
        run_study(parse_study(raw, "test"), Terminal())
    assert not Path(raw["out"], "warmup").exists()
