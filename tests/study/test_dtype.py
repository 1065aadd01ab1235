"""A study records the dtype that it decided, and keeps to it."""

from pathlib import Path

import pytest

from instsel.config.file import parse_study
from instsel.config.study import Model, StudyConfig
from instsel.io.store import Folder
from instsel.models.dtypes import Device, decide_dtype
from instsel.study.dtype import read_dtype, with_recorded_dtype, write_dtype
from instsel.study.folder import open_folder


@pytest.fixture
def study(tiny_study) -> StudyConfig:
    """A study that leaves its type open."""
    raw = tiny_study()
    return parse_study({**raw, "model": {"name": raw["model"]["name"]}}, "test")


def test_what_was_decided_is_recorded_beside_the_name_of_the_study(study: StudyConfig):
    folder = open_folder(study.out, study.name)
    assert read_dtype(folder) is None
    assert with_recorded_dtype(study, folder).model.dtype == "auto"
    write_dtype(folder, decide_dtype([Device("AMD EPYC", True)]))
    assert with_recorded_dtype(study, folder).model.dtype == "bfloat16"
    written = study.model_copy(update={"model": Model(name=study.model.name, dtype="float32")})
    assert with_recorded_dtype(written, folder).model.dtype == "float32"
    assert open_folder(study.out, study.name) == folder


def test_a_folder_that_is_not_there_yet_records_nothing(tmp_path: Path):
    assert read_dtype(Folder.at(tmp_path / "none")) is None
