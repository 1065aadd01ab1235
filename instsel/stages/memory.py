"""How much memory a process has needed, and how much its machine has."""

import os
import resource
from pathlib import Path

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def peak_memory() -> int:
    """Largest resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine_memory() -> int:
    """Memory of this machine, or of the container that this process runs in, bytes."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for place in map(Path, CGROUP_LIMITS):
        text = place.read_text(encoding="utf-8").strip() if place.is_file() else ""
        if text.isdecimal():
            found.append(int(text))
    return min(found)
