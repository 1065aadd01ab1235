"""Stage likelihood: the losses of one row at a time."""

import numpy as np
import pytest
import torch

from instsel.evaluation import scoring
from instsel.io.store import Folder
from instsel.study.folder import StageFolder
from tests.studies import run_stage, stage_context


@pytest.fixture
def made(finished_study, prepared, resources, tmp_path, in_this_process) -> StageFolder:
    stage = StageFolder(Folder.at(tmp_path) / "likelihood", "likelihood", {}, [])
    return run_stage(stage_context(finished_study, resources, prepare=prepared, likelihood=stage), "likelihood")


def test_every_row_has_the_losses_it_has_alone(made, prepared, tiny_model):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)

    def loss(ids: list[int], first: int, last: int) -> float:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, first - 1 : last - 1]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[first:last])).item()

    tokens = 0
    for shard in prepared.manifest()["result"]["pool"]["shards"]:
        rows = prepared.folder.read_table(f"pool/{shard}.parquet").to_pylist()
        table = made.folder.read_table(f"pool/{shard}.parquet")
        assert table.column_names == ["id", "loss", "loss_alone"]
        assert table["id"].to_pylist() == [row["id"] for row in rows]
        for found, row in zip(table.to_pylist(), rows, strict=True):
            # One answer a row, in one run of tokens.
            (places,) = np.nonzero(np.array(row["labels"]) != -100)
            first, last = places[0], places[-1] + 1
            assert found["loss"] == pytest.approx(loss(row["input_ids"], first, last), abs=1e-5)
            assert found["loss_alone"] == pytest.approx(
                loss(row["input_ids"][first - 1 : last], 1, last - first + 1), abs=1e-5
            )
            tokens += len(row["input_ids"]) + 1 + last - first
    assert made.manifest()["cost"]["tokens"] == tokens


def test_rows_whose_loss_is_not_finite_are_rejected(
    made, finished_study, prepared, resources, tmp_path, monkeypatch, in_this_process
):
    plain = scoring.answer_likelihoods

    def broken(*arguments, **keys):
        loss, alone = plain(*arguments, **keys)
        loss[0], alone[1] = np.inf, np.nan
        return loss, alone

    monkeypatch.setattr(scoring, "answer_likelihoods", broken)
    stage = StageFolder(Folder.at(tmp_path) / "broken", "likelihood", {}, [])
    run_stage(stage_context(finished_study, resources, prepare=prepared, likelihood=stage), "likelihood")
    shards = prepared.manifest()["result"]["pool"]["shards"]
    whole = [made.folder.read_table(f"pool/{shard}.parquet") for shard in shards]
    expected = [row for table in whole for row in table["id"].to_pylist()[:2]]
    assert stage.manifest()["result"]["rejected"] == dict.fromkeys(expected, "NaN or infinity")
    for shard, table in zip(shards, whole, strict=True):
        assert stage.folder.read_table(f"pool/{shard}.parquet").equals(table.slice(2))
