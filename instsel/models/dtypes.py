"""Which type a model computes in: bfloat16 where the device computes it itself, float32 where it would be emulated.

`model.dtype: auto` is settled once a study and kept in its folder, so that it goes on in the same type on any machine.
"""

import platform
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from instsel.config.study import Model, StudyConfig

Dtype = Literal["float32", "bfloat16"]

# Flags of /proc/cpuinfo: x86's vector and matrix units for bfloat16, and Arm's.
CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
CPUINFO = Path("/proc/cpuinfo")
# One run of benchmarks/extraction.py on two cores of a Xeon without these units: a plain step, gradients with Adam.
SLOWER = "2.2 to 2.6 times as slow as float32"


@dataclass(frozen=True)
class Device:
    """What a machine computes models on.

    Attributes:
        name: as a person knows it.
        native: whether it computes bfloat16 itself; where not, torch emulates it.
    """

    name: str
    native: bool


def this_device(*, has_gpu: bool = False) -> Device:
    """The GPU that this process sees first, else this machine's CPU.

    Args:
        has_gpu: whether the machine is known to have one; else its tools tell.
    """
    # torch takes a second to load, and says no sooner that there is no GPU.
    if has_gpu or any(map(shutil.which, ("nvidia-smi", "rocm-smi"))):
        import torch

        if torch.cuda.is_available():
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            return Device(torch.cuda.get_device_name(0), native)
    return cpu(CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.is_file() else _of_mac())


def cpu(cpuinfo: str) -> Device:
    """The CPU that a text in the form of /proc/cpuinfo tells of."""
    named = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    native = flags is not None and not CPU_FLAGS.isdisjoint(flags[1].split())
    return Device(named[1].strip() if named else platform.machine() or "CPU", native)


def _of_mac() -> str:
    """What macOS tells of its CPU, in the form of /proc/cpuinfo; empty elsewhere."""
    if platform.system() != "Darwin":
        return ""
    asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string", "hw.optional.arm.FEAT_BF16"]
    lines = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
    name, has = (*lines, "", "")[:2]
    return f"model name : {name}\nFeatures : {'bf16' if has.strip() == '1' else 'none'}\n"


@lru_cache
def local_dtype() -> Dtype:
    """What `auto` means where this machine does all the work."""
    return "bfloat16" if this_device().native else "float32"


def dtype_of(model: Model) -> Dtype:
    """The type that a model computes in. `auto`, which a study settles for all its machines, is that of this one."""
    return local_dtype() if model.dtype == "auto" else model.dtype


@dataclass(frozen=True)
class Settled:
    """What `auto` means for a study.

    Attributes:
        dtype: of the model.
        why: in words.
    """

    dtype: Dtype
    why: str


def with_dtype(study: StudyConfig, dtype: Dtype) -> StudyConfig:
    """The study with its model in this type."""
    return study.model_copy(update={"model": study.model.model_copy(update={"dtype": dtype})})


def settle(devices: Sequence[Device]) -> Settled:
    """bfloat16 where every device computes it itself, else float32."""
    emulating = [device for device in devices if not device.native]
    if not emulating:
        return Settled("bfloat16", f"{names_of(devices)} computes it itself")
    some = "" if len(emulating) == len(devices) else f"{len(emulating)} of {len(devices)} machines: "
    return Settled("float32", f"{some}{names_of(emulating)} would emulate bfloat16, {SLOWER}")


def names_of(devices: Sequence[Device]) -> str:
    """Devices in words."""
    counts = Counter(device.name for device in devices)
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())
