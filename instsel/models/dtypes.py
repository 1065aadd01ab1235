"""The dtype a model computes in: bfloat16 on devices with native support, float32 where it would be emulated.

`model.dtype: auto` is decided once per study and recorded in its folder (`study.dtype`), so that a study continues in
the same dtype on any machine.
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

# Flags of /proc/cpuinfo: bfloat16 vector and matrix units of x86, and of Arm.
CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
CPUINFO = Path("/proc/cpuinfo")
# A run of benchmarks/extraction.py on two cores of a Xeon without these units: a plain step, gradients with Adam.
EMULATION_COST = "2.2 to 2.6 times as slow as float32"


@dataclass(frozen=True)
class Device:
    """A device that computes models.

    Attributes:
        name: product name.
        native: whether it supports bfloat16 natively; if not, torch emulates it.
    """

    name: str
    native: bool


def this_device(*, has_gpu: bool = False) -> Device:
    """Return the first GPU visible to this process, or else the CPU.

    Args:
        has_gpu: whether the machine is known to have a GPU; otherwise it is looked up by the vendors' tools.
    """
    # torch takes a second to import, which is only worth it if there may be a GPU.
    if has_gpu or any(map(shutil.which, ("nvidia-smi", "rocm-smi"))):
        import torch

        if torch.cuda.is_available():
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            return Device(torch.cuda.get_device_name(0), native)
    return cpu(CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.is_file() else _of_mac())


def cpu(cpuinfo: str) -> Device:
    """Parse a CPU from text in the format of /proc/cpuinfo."""
    model = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    native = flags is not None and not CPU_FLAGS.isdisjoint(flags[1].split())
    return Device(model[1].strip() if model else platform.machine() or "CPU", native)


def _of_mac() -> str:
    """Return what macOS reports about its CPU, in the format of /proc/cpuinfo; empty on other systems."""
    if platform.system() != "Darwin":
        return ""
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string", "hw.optional.arm.FEAT_BF16"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    name, has = (*lines, "", "")[:2]
    return f"model name : {name}\nFeatures : {'bf16' if has.strip() == '1' else 'none'}\n"


@lru_cache
def local_dtype() -> Dtype:
    """Return the meaning of `auto` if this machine does all the work."""
    return "bfloat16" if this_device().native else "float32"


def dtype_of(model: Model) -> Dtype:
    """Return the dtype a model computes in; `auto`, which a study decides for all machines, means that of this one."""
    return local_dtype() if model.dtype == "auto" else model.dtype


@dataclass(frozen=True)
class DtypeDecision:
    """The meaning of `auto` for a study.

    Attributes:
        dtype: of the model.
        reason: for it, as text.
    """

    dtype: Dtype
    reason: str


def with_dtype(study: StudyConfig, dtype: Dtype) -> StudyConfig:
    """Return the study with this dtype for its model."""
    return study.model_copy(update={"model": study.model.model_copy(update={"dtype": dtype})})


def decide_dtype(devices: Sequence[Device]) -> DtypeDecision:
    """Choose bfloat16 if every device supports it natively, else float32."""
    emulating = [device for device in devices if not device.native]
    if not emulating:
        return DtypeDecision("bfloat16", f"{describe_devices(devices)} supports it natively")
    some = "" if len(emulating) == len(devices) else f"{len(emulating)} of {len(devices)} machines: "
    return DtypeDecision("float32", f"{some}{describe_devices(emulating)} would emulate bfloat16, {EMULATION_COST}")


def describe_devices(devices: Sequence[Device]) -> str:
    """Return the names of devices with their counts, as text."""
    counts = Counter(device.name for device in devices)
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())
