"""What happens to stage *prepare* where the processes that tokenise cannot start, with a real Ray."""

import io
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from instsel.config.file import parse_study
from instsel.console import Terminal
from instsel.data.contamination import LeakIndex
from instsel.data.sources import pool_files
from instsel.errors import InputError, StudyError
from instsel.io.store import Folder
from instsel.pipeline import prepare_pool
from instsel.runtime.attempts import MOST_ATTEMPTS
from instsel.runtime.errors import clear_errors
from instsel.runtime.session import plan_resources, quiet_data

pytestmark = pytest.mark.usefixtures("ray_session")

# Stands for a crash in native code, or for a machine whose memory is used up by the import.
DIES = """
import os
from transformers import PreTrainedTokenizerFast

class Dies(PreTrainedTokenizerFast):
    def __init__(self, *args, **kwargs):
        with open({log!r}, "a") as stream:
            stream.write("x")
        os._exit(1)
"""


@pytest.fixture
def encode_pool(tiny_study: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[[Path], list[str]]:
    """Encodes a small pool with the model in a folder, as stage *prepare* does when its targets are done."""

    def encode(model: Path) -> list[str]:
        raw = tiny_study(model={"name": str(model), "trust_remote_code": True}, data={"shard_rows": 1000})
        study, folder = parse_study(raw, "study.yaml"), Folder.at(tmp_path / "study/prepare")
        for name, array in LeakIndex.of([], study.data.leak_words).arrays().items():
            folder.write_table(f"leak_{name}.arrow", pa.table({"value": array}))
        quiet_data()
        with clear_errors():
            terminal = Terminal(Console(file=io.StringIO()))
            return prepare_pool.encode_pool(study, folder, pool_files(study), plan_resources(study.resources), terminal)

    return encode


@pytest.mark.long
def test_fault_06_a_process_that_dies_while_it_loads_the_tokenizer_is_not_started_without_end(
    encode_pool: Callable[[Path], list[str]], tiny_model: Path, tmp_path: Path
) -> None:
    model, log = shutil.copytree(tiny_model, tmp_path / "model"), tmp_path / "starts"
    (model / "dies.py").write_text(DIES.format(log=str(log)))
    config = json.loads((model / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Dies", "auto_map": {"AutoTokenizer": [None, "dies.Dies"]}}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(StudyError) as error:
        encode_pool(model)
    assert f"{tmp_path}/pool/rows.jsonl, from line 1: {MOST_ATTEMPTS} workers died" in str(error.value)
    assert log.read_text() == "x" * MOST_ATTEMPTS


def test_fault_06_a_model_that_a_machine_lacks_is_named_with_its_key(
    encode_pool: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError) as error:
        encode_pool(tmp_path / "model")
    text = str(error.value)
    assert type(error.value) is InputError
    assert text.startswith(f"model.name: no tokenizer could be loaded from {tmp_path}/model: ")
    assert socket.gethostname() in text
