"""Stage *headroom*: which rows are trained on and scored, what it leaves, and that a resumed run does nothing twice."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.pipeline import headroom
from instsel.pipeline.answers import VALIDATION
from instsel.pipeline.headroom import planned_runs
from instsel.study.results import HeadroomResult
from tests.studies import run_stage, stage_context


@pytest.fixture(scope="module")
def raw(finished_study: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The finished study, copied; one target is served by a source, the other by its own validation rows."""
    out = tmp_path_factory.mktemp("headroom") / "study"
    shutil.copytree(finished_study["out"], out)
    targets = {**finished_study["targets"]}
    targets["sums"] = {**targets["sums"], "served_by": ["baskets"]}
    test = out.parent / "cities-test.jsonl"
    test.write_text('{"messages": [{"role": "user", "content": "Where to?"}], "answer": "Oslo"}\n')
    targets["cities"] = {**targets["cities"], "test": str(test), "scoring": {"metric": "f1", "max_tokens": 3}}
    evaluation = {**finished_study["evaluation"], "headroom": True, "form_and_content": True}
    study = {**finished_study, "out": str(out), "targets": targets, "evaluation": evaluation}
    run_stage(stage_context(study), "answers", VALIDATION)
    return study


def with_target(raw: dict[str, Any], name: str, **keys: Any) -> dict[str, Any]:
    return {**raw, "targets": {**raw["targets"], name: {**raw["targets"][name], **keys}}}


def validation(raw: dict[str, Any], target: str) -> list[str]:
    folder = Folder.at(raw["out"]) / "prepare" / "targets" / target
    ids: list[str] = folder.read_table("validation.parquet", ["id"])["id"].to_pylist()
    return ids


def test_served_targets_train_on_their_sources_and_others_on_folds(raw: dict[str, Any]) -> None:
    runs = {run.name: run for run in planned_runs(stage_context(raw))}
    assert list(runs) == ["run-sums", "run-cities-0", "run-cities-1", "run-cities-2"]
    index = (Folder.at(raw["out"]) / "prepare").read_table("index.parquet").to_pylist()
    source = {row["id"]: row["source"] for row in index}
    served = runs["run-sums"]
    # A quarter of 24 rows, as every selection has.
    assert len(set(served.rows)) == 6 and {source[row] for row in served.rows} == {"baskets"}
    assert served.scored == validation(raw, "sums")
    folds = [run for name, run in runs.items() if name.startswith("run-cities")]
    assert sorted(row for run in folds for row in run.scored) == sorted(validation(raw, "cities"))
    for run in folds:
        assert sorted([*run.rows, *run.scored]) == sorted(validation(raw, "cities"))
    assert planned_runs(stage_context(raw)) == list(runs.values())


def test_a_budget_of_tokens_is_kept(raw: dict[str, Any]) -> None:
    index = (Folder.at(raw["out"]) / "prepare").read_table("index.parquet").to_pylist()
    tokens = {row["id"]: row["tokens"] for row in index}
    selection = {**raw["selection"], "budget": 100, "unit": "tokens"}
    served = planned_runs(stage_context({**raw, "selection": selection}))[0]
    assert 0 < sum(tokens[row] for row in served.rows) <= 100


def test_fewer_rows_than_the_budget_are_all_taken(raw: dict[str, Any]) -> None:
    served = planned_runs(stage_context({**raw, "selection": {**raw["selection"], "budget": 24}}))[0]
    assert len(served.rows) == 8


def test_a_source_that_is_not_there_and_a_single_row_are_named(raw: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"targets.sums.served_by: the pool has no source 'basket'; its sources are"):
        planned_runs(stage_context(with_target(raw, "sums", served_by=["basket"])))
    context = stage_context(raw)
    folder = context.stage("prepare").folder / "targets" / "cities"
    table = folder.read_table("validation.parquet")
    try:
        folder.write_table("validation.parquet", table[:1])
        with pytest.raises(InputError, match=r"targets.cities: evaluation.headroom .* there is 1; give more"):
            planned_runs(context)
    finally:
        folder.write_table("validation.parquet", table)


def test_gains_are_those_of_rows_that_were_not_trained_on_and_nothing_is_done_twice(
    raw: dict[str, Any], resources: Any, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = stage_context(raw, resources)
    stage = run_stage(context, "headroom")
    result = stage.result(HeadroomResult).targets
    assert (result["sums"].trained, result["sums"].by_sources, result["sums"].scored) == (6, True, 4)
    assert (result["cities"].by_sources, result["cities"].scored) == (False, 4)
    folder = Path(stage.folder.path)
    assert not list(folder.rglob("*.safetensors"))  # adapters are removed
    scores = stage.folder.read_table("scores.parquet").to_pandas()
    assert scores.groupby(["target", "score"]).size().to_dict() == {
        ("cities", "accuracy"): 4, ("cities", "content"): 4, ("cities", "loss"): 4,
        ("sums", "content"): 4, ("sums", "loss"): 4,
    }  # fmt: skip
    losses = scores[scores["score"] == "loss"].set_index("id")["gain"]
    for run in planned_runs(context):
        before, after = (
            (stage.folder / name).read_table(f"{run.target}.parquet").to_pandas().set_index("id")["loss"]
            for name in ("base", run.name)
        )
        np.testing.assert_allclose(losses[run.scored], before[run.scored] - after[run.scored])
        # Fresh matrices at this rate move the loss of a random model.
        assert (before - after).abs().max() > 1e-3
    made = (folder / "scores.parquet").read_bytes()
    (folder / "manifest.json").unlink()
    in_this_process.clear()
    monkeypatch.setattr(headroom, "write_training_sets", None)
    again = run_stage(stage_context(raw, resources), "headroom")
    assert in_this_process == [] and (folder / "scores.parquet").read_bytes() == made
    assert again.result(HeadroomResult).targets == result


def test_another_metric_is_another_headroom(raw: dict[str, Any]) -> None:
    before = stage_context(raw).stage("headroom").fingerprint
    assert (
        stage_context(with_target(raw, "cities", scoring={"metric": "rouge_l"})).stage("headroom").fingerprint != before
    )
