"""What CPUs say of themselves, what a study makes of it, and that it keeps to it."""

from pathlib import Path

import pytest

from instsel.config.file import parse_study
from instsel.config.study import Model, StudyConfig
from instsel.io.store import Folder
from instsel.models import dtypes
from instsel.models.dtypes import Device, cpu, dtype_of, keep, kept, settle, with_kept_dtype
from instsel.study.folder import open_folder

CASCADE_LAKE = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz
flags\t\t: fpu vme sse4_2 avx2 avx512f avx512dq avx512bw avx512vl avx512_vnni
bugs\t\t: spectre_v1 bf16
"""
GENOA = """processor\t: 0
model name\t: AMD EPYC 9R14
flags\t\t: fpu vme avx2 avx512f avx512_bf16 avx512_vnni
"""
SAPPHIRE_RAPIDS = "model name\t: Intel(R) Xeon(R) Platinum 8488C\nflags\t\t: fpu avx512f amx_tile amx_int8 amx_bf16\n"
GRAVITON_3 = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd sve i8mm bf16 dgh rng\nCPU part\t: 0xd40\n"
GRAVITON_2 = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd aes crc32 atomics\nCPU part\t: 0xd0c\n"


@pytest.mark.parametrize(
    ("cpuinfo", "native"),
    [
        (CASCADE_LAKE, False),
        (GENOA, True),
        (SAPPHIRE_RAPIDS, True),
        (GRAVITON_3, True),
        (GRAVITON_2, False),
        # A longer name that holds a flag's.
        ("flags\t\t: fpu avx_bf16_to_come\n", False),
        ("", False),
    ],
)
def test_a_cpu_computes_bfloat16_if_it_has_a_unit_for_it(cpuinfo: str, native: bool):
    assert cpu(cpuinfo).native == native


def test_a_cpu_is_called_as_people_know_it():
    assert cpu(GENOA).name == "AMD EPYC 9R14"
    assert cpu(GRAVITON_3).name


def test_one_machine_that_emulates_decides_for_all():
    good, bad = Device("AMD EPYC", True), Device("Intel Xeon", False)
    assert settle([good, good]).dtype == "bfloat16"
    mixed = settle([good, bad, good])
    assert mixed.dtype == "float32"
    assert "1 of 3 machines: Intel Xeon would emulate bfloat16" in mixed.why
    assert settle([bad]).why.startswith("Intel Xeon would emulate bfloat16")


def test_a_type_that_is_written_is_taken_and_auto_is_that_of_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dtypes, "local_dtype", lambda: "bfloat16")
    assert dtype_of(Model(name="m", dtype="float32")) == "float32"
    assert dtype_of(Model(name="m")) == "bfloat16"


@pytest.fixture
def study(tiny_study) -> StudyConfig:
    """A study that leaves its type open."""
    raw = tiny_study()
    return parse_study({**raw, "model": {"name": raw["model"]["name"]}}, "test")


def test_what_was_settled_is_kept_beside_the_name_of_the_study(study: StudyConfig):
    folder = open_folder(study.out, study.name)
    assert kept(folder) is None
    assert with_kept_dtype(study, folder).model.dtype == "auto"
    keep(folder, settle([Device("AMD EPYC", True)]))
    assert with_kept_dtype(study, folder).model.dtype == "bfloat16"
    written = study.model_copy(update={"model": Model(name=study.model.name, dtype="float32")})
    assert with_kept_dtype(written, folder).model.dtype == "float32"
    assert open_folder(study.out, study.name) == folder


def test_a_folder_that_is_not_there_yet_keeps_nothing(tmp_path: Path):
    assert kept(Folder.at(tmp_path / "none")) is None
