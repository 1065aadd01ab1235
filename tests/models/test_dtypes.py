"""What CPUs report about themselves, and the dtype that follows from it."""

import pytest

from instsel.config.study import Model
from instsel.models import dtypes
from instsel.models.dtypes import Device, cpu, decide_dtype, dtype_of

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
def test_fault_21_a_cpu_computes_bfloat16_if_it_has_a_unit_for_it(cpuinfo: str, native: bool):
    assert cpu(cpuinfo).native == native


def test_a_cpu_is_called_as_people_know_it():
    assert cpu(GENOA).name == "AMD EPYC 9R14"
    assert cpu(GRAVITON_3).name


def test_fault_21_one_machine_that_emulates_decides_for_all():
    good, bad = Device("AMD EPYC", True), Device("Intel Xeon", False)
    assert decide_dtype([good, good]).dtype == "bfloat16"
    mixed = decide_dtype([good, bad, good])
    assert mixed.dtype == "float32"
    assert "1 of 3 machines: Intel Xeon would emulate bfloat16" in mixed.reason
    assert decide_dtype([bad]).reason.startswith("Intel Xeon would emulate bfloat16")


def test_a_type_that_is_written_is_taken_and_auto_is_that_of_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dtypes, "local_dtype", lambda: "bfloat16")
    assert dtype_of(Model(name="m", dtype="float32")) == "float32"
    assert dtype_of(Model(name="m")) == "bfloat16"
