"""Stage *hidden_states*: the representations of one row at a time, of pool and validation rows."""

import numpy as np
import pytest
import torch

from instsel.arrays import list_rows
from instsel.io.store import Folder
from instsel.study.folder import StageFolder
from tests.studies import run_stage, stage_context


@pytest.fixture
def made(finished_study, prepared, resources, tmp_path, in_this_process) -> StageFolder:
    stage = StageFolder(Folder.at(tmp_path) / "hidden_states", "hidden_states", {}, [])
    return run_stage(stage_context(finished_study, resources, prepare=prepared, hidden_states=stage), "hidden_states")


def test_every_row_is_represented_as_it_is_alone(made, prepared, tiny_model):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    result = prepared.manifest()["result"]
    places = {f"pool/{shard}": f"pool/{shard}" for shard in result["pool"]["shards"]}
    places |= {f"validation/{target}": f"targets/{target}/validation" for target in result["targets"]}
    tokens = 0
    for name, source in places.items():
        rows = prepared.folder.read_table(f"{source}.parquet").to_pylist()
        table = made.folder.read_table(f"{name}.arrow")
        assert table["id"].to_pylist() == [row["id"] for row in rows]
        for vector, row in zip(list_rows(table["embedding"]), rows, strict=True):
            ids = torch.tensor([row["input_ids"]])
            tokens += ids.numel()
            with torch.no_grad():
                states = model(ids, output_hidden_states=True).hidden_states[-1][0]
            weights = torch.arange(1, len(states) + 1).float()
            np.testing.assert_allclose(vector, (weights / weights.sum()) @ states, atol=1e-5)
    assert made.manifest()["cost"]["tokens"] == tokens
