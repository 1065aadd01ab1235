"""Categories, their interactions by every estimator, and selections that keep to a mixture, on a small study."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instsel.choice.constrained import mix
from instsel.config.file import parse_study
from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.pipeline.finetune import order_of_rows
from instsel.pipeline.registry import build_graph
from instsel.pipeline.runner import run_study
from instsel.study.graph import StageGraph
from instsel.study.reader import StudyReader
from instsel.study.stage import RunContext
from tests.studies import run_stage, stage_context

SOURCES = ["baskets", "letters", "trains"]
MIXTURE = {
    "categories": "source",
    "evaluation_rows": 2,
    "least_rows": 4,
    "estimator": "gradients",
    "compare": ["interventions"],
    "interventions": {"bases": 1, "base_rows": 6, "added_rows": 3, "removals": False},
    "max_shift": 0.2,
    "unknown": "zero",
    "threshold": 0.0,
}
METHODS = [
    {"method": "random", "mixture": "pool"},
    {"method": "bids", "mixture": "choice"},
    {"method": "equal", "by": "category"},
]


@pytest.fixture(scope="session")
def mixed(
    tmp_path_factory: pytest.TempPathFactory, finished_study: dict[str, Any]
) -> tuple[StudyConfig, StageGraph, dict[str, Any]]:
    """A study that went on from the finished one through its selections."""
    out = tmp_path_factory.mktemp("mixed") / "study"
    shutil.copytree(finished_study["out"], out)
    selection = {"budget": 8, "methods": METHODS}
    raw = {**finished_study, "out": str(out), "selection": selection, "mixture": MIXTURE}
    study = parse_study(raw, "test")
    return study, run_study(study, Terminal(), "select"), raw


def _interaction(graph: StageGraph, estimator: Any) -> dict[str, Any]:
    return graph["interaction", estimator].manifest()["result"]


def test_every_row_has_a_category_and_some_of_each_are_kept_apart(mixed):
    _, graph, _ = mixed
    table = graph["categorize"].folder.read_table("categories.parquet").to_pandas()
    assert sorted(table["category"].unique()) == SOURCES
    assert table.groupby("category")["held"].sum().tolist() == [2, 2, 2]
    for number, name in enumerate(SOURCES):
        kept = graph["categorize"].folder.read_table(f"evaluation/{number:04d}.parquet")
        assert sorted(kept["id"].to_pylist()) == sorted(table[table["held"] & (table["category"] == name)]["id"])


@pytest.mark.parametrize("estimator", ["gradients", "interventions"])
def test_every_estimator_leaves_gamma_with_ones_on_the_diagonal(mixed, estimator):
    _, graph, _ = mixed
    result = _interaction(graph, estimator)
    assert result["categories"] == SOURCES
    assert [result["gamma"][place][place] for place in range(3)] == [1, 1, 1]
    lines = graph["interaction", estimator].folder.read_table("gamma.parquet").to_pylist()
    assert [(line["added"], line["evaluated"]) for line in lines[:4]] == [
        ("baskets", "baskets"),
        ("baskets", "letters"),
        ("baskets", "trains"),
        ("letters", "baskets"),
    ]
    for line in lines:
        told = result["gamma"][SOURCES.index(line["added"])][SOURCES.index(line["evaluated"])]
        assert (told is None and np.isnan(line["gamma"])) or told == line["gamma"]


def test_runs_train_on_what_was_planned_and_leave_no_adapter(mixed):
    _, graph, _ = mixed
    folder = Path(str(graph.folder)) / "interaction"
    held = {row["id"] for row in graph["categorize"].folder.read_table("categories.parquet").to_pylist() if row["held"]}
    runs = list((folder / "runs").iterdir())
    assert len(runs) == 4
    for run in runs:
        manifest = json.loads((run / "manifest.json").read_text())
        assert not held & set(manifest["settings"]["rows"])
        assert manifest["cost"]["tokens"] > 0
        assert not (run / "run").exists()
    assert not (folder / "interventions" / "tune").exists()


@pytest.mark.parametrize("name", ["random", "bids"])
def test_selection_has_the_rows_that_its_mixture_gives(mixed, name):
    _, graph, _ = mixed
    result = graph["select", name].manifest()["result"]
    shares = result["mixture"]["categories"]
    assert sum(own["rows"] for own in shares.values()) == result["rows"] == 8
    assert {source: own["rows"] for source, own in shares.items() if own["rows"]} == result["sources"]
    moved = sum(abs(own["weight"] - own["start"]) for own in shares.values()) / 2
    assert moved <= 0.2 + 1e-6
    table = graph["select", name].folder.read_table("mixture.parquet").to_pylist()
    assert [line["category"] for line in table] == SOURCES
    picks = graph["select", name].folder.read_table("selected.parquet").to_pylist()
    assert len({pick["id"] for pick in picks}) == 8
    assert all(pick["reason"].startswith(f"{pick['source']}: ") for pick in picks)


def test_equal_shares_of_categories(mixed):
    _, graph, _ = mixed
    assert sorted(graph["select", "equal"].manifest()["result"]["sources"].values()) == [2, 3, 3]


@pytest.mark.long
def test_training_in_order_keeps_to_the_levels(mixed, resources, tmp_path):
    _, graph, raw = mixed
    method = {"method": "random", "order": "sorted"}
    levels = {"baskets": "subsequent", "letters": "preliminary"}
    parts = {"selection": {"budget": 8, "methods": [method]}, "curriculum": {"levels": levels}}
    study = parse_study({**raw, **parts}, "test")
    ordered = build_graph(study, graph.folder, Folder.at(tmp_path))
    run = ordered.runs["random"]
    context = RunContext(study, ordered, resources, Terminal())
    run_stage(context, "select", run.selection)
    stage = run_stage(context, "finetune", run.name)
    order = stage.folder.read_table("order.parquet").to_pandas()
    chosen = ordered["select", "random"].folder.read_table("selected.parquet").to_pandas()
    assert sorted(order["id"]) == sorted(chosen["id"])
    sources = chosen.set_index("id")["source"]
    wanted = {"letters": 0, "trains": 1, "baskets": 2}
    assert order["level"].tolist() == [wanted[sources[row]] for row in order["id"]]
    assert order["level"].is_monotonic_increasing


def _three_pass(mixed, **curriculum):
    _, graph, raw = mixed
    selection = {"budget": 8, "methods": [{"method": "random", "order": "three_pass"}]}
    parts = {"finetune": {**raw["finetune"], "epochs": 3}, "selection": selection, "curriculum": curriculum}
    study = parse_study({**raw, **parts}, "test")
    context = stage_context(study, None, graph.folder, **{"select/random": graph["select", "random"]})
    return order_of_rows(context, context.graph.runs["random"])


def test_three_passes_move_preliminary_rows_forward(mixed):
    _, levels, order = _three_pass(mixed, levels={"letters": "preliminary", "trains": "subsequent"}, held_back=1)
    early = int((levels == 0).sum())
    assert [int((levels[one] == 0).sum()) for one in order] == [early + 1, early, early - 1]
    assert np.bincount(np.concatenate(order)).tolist() == [3] * 8


def test_three_passes_without_both_ends_are_refused(mixed):
    with pytest.raises(InputError, match="needs preliminary and subsequent rows, and . rows are preliminary"):
        _three_pass(mixed, levels={"letters": "preliminary"})
    with pytest.raises(InputError, match="held_back is 7"):
        _three_pass(mixed, levels={"letters": "preliminary", "trains": "subsequent"}, held_back=7)


def test_finished_study_does_nothing_and_another_shift_only_selects_anew(mixed, capsys):
    study, graph, raw = mixed
    run_study(study, Terminal(), "select")
    assert "nothing to do" in capsys.readouterr().out
    other = parse_study({**raw, "mixture": {**MIXTURE, "max_shift": 0.1}}, "test")
    waiting = [stage.name for stage in build_graph(other, graph.folder).until("select") if not stage.done()]
    assert waiting == ["select/random", "select/bids"]
    surer = parse_study({**raw, "mixture": {**MIXTURE, "threshold": 1.0}}, "test")
    waiting = [stage.name for stage in build_graph(surer, graph.folder).until("interaction") if not stage.done()]
    assert waiting == ["interaction/gradients", "interaction/interventions"]
    faster = parse_study({**raw, "finetune": {**raw["finetune"], "learning_rate": 1e-3}}, "test")
    waiting = [stage.name for stage in build_graph(faster, graph.folder).until("interaction") if not stage.done()]
    assert waiting == ["interaction/interventions"]


def test_category_that_is_not_there_is_named(mixed):
    study, graph, raw = mixed
    reader = StudyReader(graph.folder)
    sizes = Counter(reader.categories.to_pylist())
    start = dict.fromkeys(SOURCES, 1)
    for key, message in (("floors", "floors names .poems."), ("importance", "importance names .poems.")):
        wrong = parse_study({**raw, "mixture": {**MIXTURE, key: {"poems": 1.0}}}, "test").mixture
        with pytest.raises(InputError, match=message):
            mix(wrong, reader, sizes, start, 8)


def test_bug_the_report_looked_for_categories_under_a_former_name(mixed):
    from instsel.report.pool import Pool
    from instsel.report.record import StudyRecord

    _, graph, _ = mixed
    facet = Pool(StudyRecord(str(graph.folder))).facets["category"]
    assert facet.names[: len(SOURCES)] == SOURCES
