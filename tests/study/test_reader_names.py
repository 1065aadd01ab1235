"""Names in the manifests of a study folder, which somebody else may have written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.study.reader import StudyReader


@pytest.mark.parametrize("name", ["../../..", "../../../tmp", "/etc", "a/b", ""])
def test_fault_13_a_target_whose_name_leads_out_of_the_study_is_refused(
    name: str, small_pool: Callable[..., StudyReader], tmp_path: Path
) -> None:
    small_pool([("a", "What?", 3)], {"sums": ["How many?"]})
    path = tmp_path / "study/prepare/manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_text())
    manifest["result"]["targets"] = {name: manifest["result"]["targets"]["sums"]}
    manifest["settings"]["targets"] = {name: manifest["settings"]["targets"]["sums"]}
    path.write_text(json.dumps(manifest))
    reader = StudyReader(Folder.at(tmp_path / "study"))
    for read in (reader.validation_prompts, reader.validation_sizes):
        with pytest.raises(InputError, match="names a target .*, which no study has; do not use this folder"):
            read()
