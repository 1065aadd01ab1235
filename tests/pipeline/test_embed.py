"""Stage embed: the embeddings of one prompt at a time, and the same bytes after an interruption."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from instsel.arrays import list_rows
from instsel.config.file import parse_study
from instsel.io.store import Folder
from instsel.study.folder import StageFolder
from tests.studies import run_stage, stage_context


@pytest.fixture(scope="module")
def study(finished_study, tiny_encoder):
    keys = {"encoder": str(tiny_encoder), "max_length": 40, "token_budget": 100}
    return parse_study({**finished_study, "embedding": keys}, "test")


@pytest.fixture(scope="module")
def made(study, prepared, resources, tmp_path_factory) -> StageFolder:
    stage = StageFolder(Folder.at(tmp_path_factory.mktemp("made")) / "embed", "embed", {}, [])
    return run_stage(stage_context(study, resources, prepare=prepared, embed=stage), "embed")


def test_every_prompt_is_embedded_as_it_is_alone(made, prepared, tiny_encoder):
    from transformers import AutoTokenizer, BertModel

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_encoder), BertModel.from_pretrained(tiny_encoder)
    tokens, result = 0, prepared.manifest()["result"]
    places = {f"pool/{shard}": f"pool/{shard}" for shard in result["pool"]["shards"]}
    places |= {f"targets/{name}/validation": f"validation/{name}" for name in result["targets"]}
    for source, embedded in places.items():
        rows = prepared.folder.read_table(f"{source}.parquet").to_pylist()
        table = made.folder.read_table(f"{embedded}.arrow")
        assert table["id"].to_pylist() == [row["id"] for row in rows]
        for vector, row in zip(list_rows(table["embedding"]), rows, strict=True):
            encoded = tokenizer(row["messages"][0]["content"], truncation=True, max_length=40, return_tensors="pt")
            tokens += encoded["input_ids"].numel()
            with torch.no_grad():
                expected = model(**encoded).last_hidden_state[0].mean(dim=0)
            np.testing.assert_allclose(vector, expected.numpy(), atol=2e-6)
    manifest = made.manifest()
    assert manifest["result"] == {"rejected": {}}
    assert manifest["cost"]["tokens"] == tokens
    assert manifest["cost"]["peak_memory_bytes"] > 1e7


def test_a_shard_that_is_missing_is_made_again_with_the_same_bytes(
    made, study, prepared, resources, tmp_path, in_this_process
):
    folder = tmp_path / "embed"
    shutil.copytree(made.folder.path, folder)
    shards = {path.name: path.read_bytes() for path in (folder / "pool").iterdir()}
    first, *others = sorted(shards)
    (folder / "manifest.json").unlink()
    (folder / "pool" / first).unlink()
    kept = {name: (folder / "pool" / name).stat().st_mtime_ns for name in others}
    stage = StageFolder(Folder.at(folder), "embed", {}, [])
    run_stage(stage_context(study, resources, prepare=prepared, embed=stage), "embed")
    assert in_this_process == [f"pool/{Path(first).stem}.parquet"]
    assert {path.name: path.read_bytes() for path in (folder / "pool").iterdir()} == shards
    assert {name: (folder / "pool" / name).stat().st_mtime_ns for name in others} == kept
