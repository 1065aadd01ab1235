"""A package brings a method, and a study selects with it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from instsel.io.store import Folder
from instsel.study.results import SelectResult
from tests.plugins import SHORTEST, write_package


def instsel(package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command where a package is installed."""
    path = os.pathsep.join([package, os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[2])])
    code = "import sys; from instsel.cli.app import app; app(sys.argv[1:])"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.ray
def test_a_study_selects_with_a_method_that_a_package_brings(finished_study, tmp_path):
    package = write_package(tmp_path / "site", "brings-a-method", "brought", SHORTEST)
    shutil.copytree(finished_study["out"], tmp_path / "study")
    methods = [*finished_study["selection"]["methods"], {"method": "shortest", "least": 2}]
    raw = {
        **finished_study,
        "out": str(tmp_path / "study"),
        "selection": {**finished_study["selection"], "methods": methods},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(raw))
    process = instsel(package, "run", str(tmp_path / "study.yaml"), "--until", "select")
    assert process.returncode == 0, process.stderr
    folder = Folder.at(tmp_path / "study/select/shortest")
    table = folder.read_table("selected.parquet")
    lengths = table["answer_tokens"].to_pylist()
    assert table.num_rows == 6 and lengths == sorted(lengths) and min(lengths) >= 2
    assert table["reason"].to_pylist() == [f"{length} answer tokens, few" for length in lengths]
    result = SelectResult.model_validate(folder.read_json("manifest.json")["result"])
    assert result.rows == 6 and result.model_extra["lengths"]["mean"] > 0
    made_from = json.loads((tmp_path / "study/select/shortest/manifest.json").read_text())["settings"]
    assert (made_from["method"], made_from["least"], made_from["version"]) == ("shortest", 2, 1)
    # Without the package the study file is wrong, not the program.
    alone = instsel("", "run", str(tmp_path / "study.yaml"), "--until", "select")
    assert alone.returncode == 2 and "selection.methods.2: " in alone.stderr and "'shortest'" in alone.stderr


@pytest.mark.process
def test_a_broken_package_is_an_error_of_the_user_that_names_it(finished_study, tmp_path):
    package = write_package(tmp_path / "site", "brings-trouble", "trouble", "import nothing_of_this_name")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(finished_study))
    process = instsel(package, "run", str(tmp_path / "study.yaml"))
    assert process.returncode == 2 and "Traceback" not in process.stderr
    assert "entry point shortest = trouble:Shortest of brings-trouble cannot be loaded" in process.stderr
