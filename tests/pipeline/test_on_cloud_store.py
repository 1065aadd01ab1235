"""A study whose data, model and folder are in Google Cloud Storage or Azure, by emulators and a Ray of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import FileSelector

from instsel.io.store import Folder
from tests.cloud_stores import AZURE_KEY, CloudStore

pytestmark = [pytest.mark.long, pytest.mark.process]

COMMAND = [sys.executable, "-c", "from instsel.cli.app import app; app()", "run", "study.json", "--until", "warmup"]
ADAPTER = "warmup/run/epoch-2/adapter_model.safetensors"


def _run(folder: Path) -> str:
    done = subprocess.run(
        COMMAND,
        cwd=folder,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_study_in_a_store_is_the_same_as_on_a_disk(
    cloud_store: CloudStore, finished_study: dict[str, Any], tmp_path: Path
) -> None:
    root = f"{cloud_store.uri}/data"
    for place, name in ((finished_study["root"], root), (finished_study["model"]["name"], f"{cloud_store.uri}/toy")):
        for file in Path(place).rglob("*"):
            below = file.relative_to(place).parent.as_posix()
            if file.is_file() and "study" not in below:
                (Folder.at(name) if below == "." else Folder.at(name) / below).put(file.name, file)
    out = f"{cloud_store.uri}/study"
    model = {**finished_study["model"], "name": f"{cloud_store.uri}/toy"}
    (tmp_path / "study.json").write_text(json.dumps({**finished_study, "root": root, "out": out, "model": model}))
    _run(tmp_path)
    folder = Folder.at(out)
    for name in ("prepare/index.parquet", ADAPTER):
        assert folder.read(name) == Path(finished_study["out"], name).read_bytes()
    infos = folder.filesystem.get_file_info(FileSelector(folder.path, recursive=True))
    assert not [info.path for info in infos if info.path.endswith((".part", "lease.json"))]
    assert AZURE_KEY.encode() not in folder.read("config.json") + folder.read("instsel.log")
    adapter = (folder / "warmup/run/epoch-2").read_json("adapter_config.json")
    assert adapter["base_model_name_or_path"] == f"{cloud_store.uri}/toy"
    assert "nothing to do" in _run(tmp_path)
