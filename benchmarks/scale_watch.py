"""Memory of a driver, of its Ray workers and of the object store, watched while a block runs."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread

import psutil
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

POLL_SECONDS = 0.5


@dataclass
class Peaks:
    """The highest that was seen, bytes; of processes their own memory, without mapped files and the object store.

    Attributes:
        start: memory of the driver as the block began.
        driver: memory of the driver.
        worker: memory of the heaviest worker; name: what Ray calls it.
        ray: memory of Ray's own heaviest process (raylet, GCS, ...).
        store: bytes in the object store.
        spilled: bytes that the object store wrote to disk while the block ran.
    """

    start: int
    driver: int = 0
    worker: int = 0
    name: str = ""
    ray: int = 0
    store: int = 0
    spilled: int = 0


@contextmanager
def watch() -> Iterator[Peaks]:
    """Watch this process and the Ray session that it started; the figures are whole when the block has ended."""
    driver = psutil.Process()
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    before = get_memory_info_reply(state).store_stats.spilled_bytes_total
    peaks = Peaks(start=_private_bytes(driver))
    done = Event()

    def look() -> None:
        peaks.driver = max(peaks.driver, _private_bytes(driver))
        for process in driver.children(recursive=True):
            # It may have ended since.
            with suppress(psutil.NoSuchProcess, IndexError):
                _look_at(process, peaks)
        stats = get_memory_info_reply(state).store_stats
        peaks.store = max(peaks.store, stats.object_store_bytes_used)
        peaks.spilled = stats.spilled_bytes_total - before

    def poll() -> None:
        while not done.wait(POLL_SECONDS):
            look()

    thread = Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()
        look()


def _look_at(process: psutil.Process, peaks: Peaks) -> None:
    name, memory = process.cmdline()[0], _private_bytes(process)
    if not name.startswith("ray::"):
        peaks.ray = max(peaks.ray, memory)
    elif memory > peaks.worker:
        peaks.worker, peaks.name = memory, name.removeprefix("ray::")


def _private_bytes(process: psutil.Process) -> int:
    memory = process.memory_info()
    return int(memory.rss - memory.shared)
