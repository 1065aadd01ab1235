"""`model.dtype: auto` on machines of one kind, of several, and of another kind than those a study began on."""

import json
from pathlib import Path
from typing import Any

import pytest

from instsel.config.file import parse_study
from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.errors import StudyError
from instsel.models.dtypes import Device, decide_dtype, this_device
from instsel.pipeline.runner import run_study
from instsel.runtime import devices as dtype
from instsel.runtime.devices import settle_dtype, working_devices, working_nodes
from instsel.study.dtype import write_dtype
from instsel.study.folder import open_folder

NATIVE, EMULATING = Device("AMD EPYC", True), Device("Intel Xeon", False)


def node(name: str, *, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": resources}


def test_the_machines_that_count_are_those_that_do_the_work():
    head, gone = node("head", memory=1.0), node("gone", alive=False, CPU=8.0, GPU=1.0)
    cpus = [node("a", CPU=4.0), node("b", CPU=8.0)]
    assert working_nodes([head, *cpus, gone]) == ["a", "b"]
    # Those without a GPU look after the others.
    assert working_nodes([head, *cpus, node("gpu", CPU=8.0, GPU=1.0), gone]) == ["gpu"]


def test_a_ray_of_this_machine_says_what_this_machine_computes_on(ray_session):
    assert working_devices() == [this_device()]


@pytest.fixture
def study(tiny_study) -> StudyConfig:
    raw = tiny_study()
    return parse_study({**raw, "model": {"name": raw["model"]["name"]}}, "test")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch):
    """Let the machines be these."""
    return lambda *devices: monkeypatch.setattr(dtype, "working_devices", lambda accelerator=None: list(devices))


def written(study: StudyConfig) -> dict[str, Any]:
    return json.loads(Path(study.out, "study.json").read_text())


def test_fault_21_auto_is_settled_said_and_written(study, on, capsys):
    folder = open_folder(study.out, study.name)
    on(NATIVE, EMULATING)
    assert settle_dtype(study, folder, Terminal()).model.dtype == "float32"
    assert "model.dtype: float32 (auto, since 1 of 2 machines: Intel Xeon would emulate" in capsys.readouterr().out
    assert written(study)["dtype"] == "float32"
    # Settled once: other machines change nothing.
    on(NATIVE)
    assert settle_dtype(study, folder, Terminal()).model.dtype == "float32"
    assert "as it was settled when the study began" in capsys.readouterr().out


def test_machines_that_do_not_answer_settle_nothing(study, on):
    folder = open_folder(study.out, study.name)
    on()
    with pytest.raises(StudyError, match="none of the machines said within 60 s"):
        settle_dtype(study, folder, Terminal())
    assert "dtype" not in written(study)


def test_a_plan_settles_nothing_for_the_study(study, on):
    folder = open_folder(study.out, study.name)
    on(NATIVE)
    assert settle_dtype(study, folder, Terminal(), write=False).model.dtype == "bfloat16"
    assert "dtype" not in written(study)


def test_a_study_in_bfloat16_that_goes_on_where_it_is_emulated_says_what_that_costs(study, on, capsys):
    folder = open_folder(study.out, study.name)
    write_dtype(folder, decide_dtype([NATIVE]))
    on(EMULATING)
    assert settle_dtype(study, folder, Terminal()).model.dtype == "bfloat16"
    output = capsys.readouterr().out
    assert "warning: Intel Xeon emulates bfloat16, which is 2.2 to 2.6 times as slow as float32" in output


def test_bfloat16_that_is_asked_for_where_it_is_emulated_is_taken_with_one_clear_line(study, on, capsys):
    folder = open_folder(study.out, study.name)
    asked = study.model_copy(update={"model": study.model.model_copy(update={"dtype": "bfloat16"})})
    on(EMULATING)
    assert settle_dtype(asked, folder, Terminal()).model.dtype == "bfloat16"
    output = capsys.readouterr().out.splitlines()
    assert sum("emulates" in line for line in output) == 1
    assert any("--set model.dtype=float32" in line for line in output)
    assert "dtype" not in written(study)


def test_auto_is_settled_before_the_first_stage_and_kept_for_a_run_on_other_machines(study, on, ray_session):
    on(EMULATING)
    run_study(study, Terminal(), until="prepare")
    manifest = Path(study.out, "prepare", "manifest.json")
    assert json.loads(manifest.read_text())["inputs"]["model"]["dtype"] == "float32"
    assert json.loads(Path(study.out, "config.json").read_text())["model"]["dtype"] == "float32"
    before = manifest.stat().st_mtime_ns
    on(NATIVE)
    run_study(study, Terminal(), until="prepare")
    assert manifest.stat().st_mtime_ns == before
