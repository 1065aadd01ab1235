"""Takes turns between contenders, times every run, and watches memory."""

import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import final

import torch

_STATM = Path("/proc/self/statm")
_SAMPLE_SECONDS = 0.005

Run = Callable[[], object]


class UnavailableError(Exception):
    """A contender that cannot take part here; the message is the reason."""


@dataclass(frozen=True)
class Contender:
    """Something to be timed.

    Attributes:
        name: as `--only` selects it.
        what: one line that says what it does.
        rows: examples of one run.
        tokens: their tokens, without padding.
        start: sets up what is kept between runs, and returns a run.
    """

    name: str
    what: str
    rows: int
    tokens: int
    start: Callable[[], Run]


@dataclass
class Timing:
    """What a contender took: seconds of every timed round, and peak bytes beyond those there before (None: unknown)."""

    contender: Contender
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None

    @property
    def rates(self) -> list[float]:
        """Tokens a second in each round."""
        return [self.contender.tokens / seconds for seconds in self.seconds]

    def ratio(self, other: "Timing") -> float:
        """How much faster than another: median over rounds of the ratio within a round."""
        return median(mine / theirs for mine, theirs in zip(self.rates, other.rates, strict=True))


def measure(contenders: Sequence[Contender], rounds: int, device: str) -> tuple[dict[str, Timing], dict[str, str]]:
    """Runs every contender once untimed, then all of them in turn for some rounds.

    Returns:
        Timings by name, and the reason by name of those that ran out of memory.
    """
    timings: dict[str, Timing] = {}
    failed: dict[str, str] = {}
    runs: dict[str, Run] = {}
    for contender in contenders:
        timing = Timing(contender)
        try:
            runs[contender.name] = _timed(timing, device, contender.start)
        except torch.OutOfMemoryError:
            failed[contender.name] = "out of memory"
            continue
        timings[contender.name] = timing
        _tell(f"untimed round: {contender.name}")
    for number in range(1, rounds + 1):
        for name, timing in timings.items():
            timing.seconds.append(_seconds(timing, device, runs[name]))
            _tell(f"round {number} of {rounds}: {name} {timing.rates[-1]:.1f} tokens/s")
    return timings, failed


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _timed(timing: Timing, device: str, start: Callable[[], Run]) -> Run:
    kept: list[Run] = []

    def first() -> None:
        kept.append(start())
        kept[0]()

    _seconds(timing, device, first)
    return kept[0]


def _seconds(timing: Timing, device: str, run: Run) -> float:
    with PeakMemory(device) as memory:
        began = time.perf_counter()
        run()
        synchronise(device)
        seconds = time.perf_counter() - began
    if memory.peak_bytes is not None:
        timing.peak_bytes = max(memory.peak_bytes, timing.peak_bytes or 0)
    return seconds


def synchronise(device: str) -> None:
    """Waits for what the device still works on."""
    if device == "cuda":
        torch.cuda.synchronize()


@final
class PeakMemory:
    """Highest memory inside the block less that before it: CUDA's allocated memory, or the process's resident one.

    Attributes:
        peak_bytes: after the block; None where there is neither CUDA nor /proc.
    """

    def __init__(self, device: str) -> None:
        self.peak_bytes: int | None = None
        self._cuda = device == "cuda"
        self._highest = self._before = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        if self._cuda:
            synchronise("cuda")
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        elif _STATM.exists():
            _give_back_freed_memory()
            self._highest = self._before = _resident_bytes()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            self.peak_bytes = torch.cuda.max_memory_allocated() - self._before
        elif self._thread.is_alive():
            self._stop.set()
            self._thread.join()
            self.peak_bytes = self._highest - self._before

    def _watch(self) -> None:
        while True:
            self._highest = max(self._highest, _resident_bytes())
            if self._stop.wait(_SAMPLE_SECONDS):
                return


def _resident_bytes() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _give_back_freed_memory() -> None:
    # What glibc keeps of one contender's memory would otherwise be free memory for the next.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
