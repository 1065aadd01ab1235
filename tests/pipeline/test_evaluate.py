"""Which adapter of a run is evaluated, and what is taken of the answers to held-out rows."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instsel.config.file import parse_study
from instsel.io.store import Folder
from instsel.models.loading import attach_adapter, load_base
from instsel.pipeline.answers import HELDOUT
from instsel.pipeline.evaluate import last_adapter
from instsel.study.gains import read_gains
from instsel.study.results import Checkpoint, TrainingResult
from tests.studies import run_stage, stage_context


def test_the_last_of_ten_epochs_is_evaluated_and_not_the_ninth():
    checkpoints = {
        f"epoch-{epoch}": Checkpoint(epoch=epoch, step=epoch, loss=1.0, learning_rate=0.1, tokens=5, seconds=0.1)
        for epoch in range(1, 11)
    }
    result = TrainingResult(run="run", checkpoints=checkpoints)
    assert (result.last, result.tokens) == ("run/epoch-10", 50)


@pytest.fixture(scope="module")
def raw(finished_study: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The finished study, copied, whose gains are to be split, with its answers."""
    out = tmp_path_factory.mktemp("evaluate") / "study"
    shutil.copytree(finished_study["out"], out)
    evaluation = {**finished_study["evaluation"], "form_and_content": True}
    study = {**finished_study, "out": str(out), "evaluation": evaluation, "answers": {"others": 2}}
    run_stage(stage_context(study), "answers", HELDOUT)
    return study


def test_every_answer_has_its_loss_without_the_end_mark_and_gains_follow(
    raw: dict[str, Any], resources: Any, in_this_process: list[str]
) -> None:
    context = stage_context(raw, resources)
    before = {run: files(raw, run) for run in ("base", "bids")}
    context.graph.stage("evaluate").run(context, ["base", "bids"])
    # Losses of whole rows are what they were without it.
    for run, tables in before.items():
        assert {name: data for name, data in files(raw, run).items() if "/" not in name} == tables
    assert len(in_this_process) == 8
    config = parse_study(raw, "test")
    folder = Folder.at(raw["out"])
    with last_adapter(context, "bids").local() as adapter:
        model = attach_adapter(load_base(config.model), adapter)
    for target in raw["targets"]:
        lines = (folder / "answers" / HELDOUT).read_table(f"{target}.parquet").to_pylist()
        logprobs = {}
        for run in ("base", "bids"):
            table = (folder / "evaluate" / run / "answers").read_table(f"{target}.parquet").to_pylist()
            assert [line["id"] for line in table] == [line["id"] for line in lines]
            with model.disable_adapter() if run == "base" else nullcontext():
                expected = [-mean_logprob(model, line) for line in lines]
            np.testing.assert_allclose([line["loss"] for line in table], expected, atol=1e-5)
            logprobs[run] = {line["id"]: -line["loss"] for line in table}
        gains = read_gains(folder / "evaluate", "bids", target)
        assert gains is not None
        rows = (folder / "prepare" / "targets" / target).read_table("heldout.parquet", ["id"])["id"].to_pylist()
        assert gains.items == rows
        for item, form, content in zip(rows, gains.form, gains.content, strict=True):
            gained = [
                logprobs["bids"][name] - logprobs["base"][name] for name in logprobs["base"] if name.startswith(item)
            ]
            assert form == pytest.approx(np.mean(gained[1:]))
            assert content == pytest.approx(gained[0] - np.mean(gained[1:]))


def test_a_run_that_was_killed_evaluates_only_what_is_missing(
    raw: dict[str, Any], resources: Any, in_this_process: list[str]
) -> None:
    context = stage_context(raw, resources)
    context.graph.stage("evaluate").run(context, ["bids"])
    whole = files(raw, "bids")
    for name in ("manifest.json", "answers/sums.parquet"):
        Path(raw["out"], "evaluate", "bids", name).unlink()
    in_this_process.clear()
    context.graph.stage("evaluate").run(context, ["bids"])
    assert in_this_process == ["answers/heldout/sums.parquet"]
    assert files(raw, "bids") == whole


def files(raw: dict[str, Any], run: str) -> dict[str, bytes]:
    folder = Path(raw["out"], "evaluate", run)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def mean_logprob(model: Any, line: dict[str, Any]) -> float:
    """Mean log-probability of the labelled tokens, from the model's own logits."""
    with torch.no_grad():
        logits = model(torch.tensor([line["input_ids"]])).logits[0].log_softmax(dim=-1)
    labels = line["labels"]
    return float(np.mean([logits[at - 1, labels[at]].item() for at in range(1, len(labels)) if labels[at] != -100]))
