"""Stages *answers* and *contrast*: each validation row has the gradient of the loss that its answers define."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instsel.arrays import unit_rows
from instsel.attribution import attribute, contrast
from instsel.choice.influence import influence_matrix
from instsel.config.file import parse_study
from instsel.errors import InputError
from instsel.gradients.features import GradientShards, read_features, read_norms
from instsel.gradients.sketch import CountSketch
from instsel.io.store import Folder
from instsel.models.loading import attach_adapter, load_base
from instsel.models.loss import answer_losses
from instsel.pipeline import contrast as contrast_stage
from instsel.pipeline.answers import HELDOUT, VALIDATION
from instsel.pipeline.contrast import ContrastTaker
from instsel.pipeline.registry import build_graph
from instsel.selection.base import AttributionSpec
from instsel.study.reader import StudyReader
from instsel.study.results import AnswersResult, FeaturesResult
from tests.studies import run_stage, stage_context

METHODS = ["random", {"method": "bids", "attribution": "contrast"}]


@pytest.fixture(scope="module")
def raw(finished_study: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The finished study, copied, with a method that reads contrast gradients, and its answers."""
    out = tmp_path_factory.mktemp("contrast") / "study"
    shutil.copytree(finished_study["out"], out)
    study = {
        **finished_study,
        "out": str(out),
        "selection": {"budget": 0.25, "methods": METHODS},
        "answers": {"others": 2},
    }
    context = stage_context(study)
    for split in (VALIDATION, HELDOUT):
        run_stage(context, "answers", split)
    return study


def made(raw: dict[str, Any], folder: Path, resources: Any) -> Any:
    """Run the stage into a folder of its own."""
    study = parse_study(raw, "test")
    stage = dataclasses.replace(build_graph(study, Folder.at(raw["out"]))["contrast"], folder=Folder.at(folder))
    return run_stage(stage_context(study, resources, contrast=stage), "contrast")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.arrow"))}


def test_answers_of_both_splits_come_with_the_right_one_first(raw: dict[str, Any]) -> None:
    for split in (VALIDATION, HELDOUT):
        stage = stage_context(raw).stage("answers", split)
        result = stage.result(AnswersResult)
        assert result.items == {"sums": 4, "cities": 4} and result.rejected == {}
        for target in raw["targets"]:
            rows = Folder.at(raw["out"]) / "prepare" / "targets" / target
            answers = {
                row["id"]: row["messages"][-1]["content"] for row in rows.read_table(f"{split}.parquet").to_pylist()
            }
            lines = stage.folder.read_table(f"{target}.parquet").to_pylist()
            assert [line["row"] for line in lines if line["id"].endswith("-0")] == list(answers)
            for line in lines:
                is_right = line["id"] == f"{line['row']}-0"
                assert (line["answer"] == answers[line["row"]]) is is_right
                assert line["answer"] in answers.values()


def test_each_row_has_the_gradient_of_the_share_of_its_right_answer(
    raw: dict[str, Any], resources: Any, tmp_path: Path, in_this_process: list[str]
) -> None:
    stage = made(raw, tmp_path / "contrast", resources)
    assert len(in_this_process) == 4  # two targets at two checkpoints
    config = parse_study(raw, "test")
    sketch = CountSketch(config.features.dim, config.features.seed)
    warmup = Path(raw["out"], "warmup", "run")
    answers = stage_context(raw).stage("answers", VALIDATION).folder
    tokens = 0
    for checkpoint in ("epoch-1", "epoch-2"):
        model = attach_adapter(load_base(config.model), warmup / checkpoint)
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        for target in raw["targets"]:
            lines = answers.read_table(f"{target}.parquet").to_pylist()
            tokens += sum(line["tokens"] for line in lines)
            table = (stage.folder / checkpoint / "validation").read_table(f"{target}.arrow")
            ids, rows = read_features(table)
            assert ids == sorted({line["row"] for line in lines})
            for item, row, norm in zip(ids, rows, read_norms(table), strict=True):
                logprobs = []
                for line in (line for line in lines if line["row"] == item):
                    batch = {key: torch.tensor([line[key]]) for key in ("input_ids", "labels")}
                    logprobs.append(-answer_losses(model, {**batch, "attention_mask": batch["input_ids"] * 0 + 1})[0])
                loss = -torch.log_softmax(torch.stack(logprobs), dim=0)[0]
                gradients = torch.autograd.grad(loss, list(trained.values()))
                expected = torch.zeros(1, config.features.dim)
                for name, gradient in zip(trained, gradients, strict=True):
                    sketch.add_(expected, name, gradient[None])
                np.testing.assert_allclose(row.astype(np.float32) * norm, expected[0], atol=2e-3 * norm)
    assert stage.manifest()["cost"]["tokens"] == tokens


def test_one_actor_or_two_and_a_resumed_run_give_the_same_bytes(
    raw: dict[str, Any], resources: Any, tmp_path: Path, in_this_process: list[str]
) -> None:
    first = files(Path(made(raw, tmp_path / "one", dataclasses.replace(resources, actors=1)).folder.path))
    assert files(Path(made(raw, tmp_path / "two", resources).folder.path)) == first
    lost = tmp_path / "two" / "epoch-2" / "validation" / "sums.arrow"
    for path in (lost, tmp_path / "two" / "manifest.json"):
        path.unlink()
    in_this_process.clear()
    made(raw, tmp_path / "two", resources)
    assert in_this_process == ["sums.parquet"]
    assert files(tmp_path / "two") == first


def test_a_target_with_a_single_answer_is_named(raw: dict[str, Any], resources: Any, tmp_path: Path) -> None:
    context = stage_context(raw)
    answers = dataclasses.replace(context.stage("answers", VALIDATION), folder=Folder.at(tmp_path / "answers"))
    answers.start()
    answers.commit(AnswersResult(items={"sums": 0, "cities": 4}, rejected={}))
    context.graph._folders["answers", VALIDATION] = answers
    with pytest.raises(InputError, match=r"targets.sums.validation: no row has another answer"):
        run_stage(context, "contrast")


def test_a_study_reads_them_as_any_other_influence(
    raw: dict[str, Any], resources: Any, tmp_path: Path, in_this_process: list[str]
) -> None:
    context = stage_context(raw, resources)
    stage = run_stage(context, "contrast")
    run_stage(context, "attribution", "contrast")
    reader = StudyReader(Folder.at(raw["out"]))
    stored = reader.influence(AttributionSpec.of("contrast", 0.1))
    assert stored is not None
    columns = stored.columns
    validation = GradientShards(stage.folder, stage.result(FeaturesResult).provenance).validation(columns)
    pool = [reader.gradients.pool(shard)[1] for shard in reader.shards]
    train = [np.concatenate([shard[index] for shard in pool]) for index in range(2)]
    np.testing.assert_allclose(
        stored.values, attribute(train, [unit_rows(rows) for rows in validation], reader.weights), atol=1e-6
    )
    # Not what the plain gradients say.
    plain = influence_matrix(reader, AttributionSpec.of("cosine", 0.1))
    assert plain.columns["id"].to_pylist() == columns["id"].to_pylist()
    assert np.abs(plain.values - stored.values).max() > 0.1


class GivenGradients:
    """An engine whose gradients and losses are given by the example's number."""

    def __init__(self, features: np.ndarray, losses: np.ndarray) -> None:
        self.rows, self.losses = features, losses

    def features_and_losses(self, examples: list[Any]) -> tuple[np.ndarray, np.ndarray]:
        numbers = [example["input_ids"][0] for example in examples]
        return self.rows[numbers], self.losses[numbers]


def taken(features: np.ndarray, losses: np.ndarray, rows: list[str]) -> Any:
    taker = object.__new__(ContrastTaker)
    taker.sketch = CountSketch(features.shape[1], 0)
    examples = [{"input_ids": [number], "labels": [number], "row": row} for number, row in enumerate(rows)]
    return taker.features(GivenGradients(features, losses), rows, examples)  # type: ignore[arg-type]


def test_rows_are_combined_a_few_at_a_time_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    features, losses = random.normal(size=(30, 16)).astype(np.float32), random.random(30)
    rows = [f"r{number % 7}" for number in range(30)]
    monkeypatch.setattr(contrast_stage, "ITEMS_AT_ONCE", 2)
    ids, combined, without = taken(features, losses, rows)
    assert (ids, without) == (sorted(set(rows)), {})
    np.testing.assert_array_equal(combined, contrast(features, -losses, rows))


def test_a_row_with_an_answer_without_a_finite_gradient_is_rejected_alone() -> None:
    features, losses = np.ones((6, 16), np.float32), np.arange(6.0)
    features[1, 3], losses[4] = np.nan, np.inf
    features[2] = 3.0
    ids, combined, without = taken(features, losses, ["a", "a", "b", "b", "c", "c"])
    assert (ids, combined.shape) == (["b"], (1, 16)) and (combined > 0).all()
    assert without == {"a": "non-finite gradient", "c": "non-finite gradient"}
