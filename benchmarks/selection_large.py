"""Memory of a driver that selects from an attribution matrix too large to hold: 10^6 x 1,000.

    python -m benchmarks.selection_large [--shape 1000000 1000] [--budget 50000] [--folder DIR]

Blocks are written as stage *attribution* writes them, a shard of 1,000 rows each, then laid out and selected from as
stage *select* does. Tells seconds and the process's highest memory: its own (anonymous), and pages of the mapped file,
which the system takes back when it needs them. The folder takes twice the matrix on disk while it runs.
"""

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar

import numpy as np
import pyarrow as pa

from benchmarks import report
from instsel.arrays import list_rows
from instsel.io.matrix import stack
from instsel.io.store import Folder
from instsel.report.markdown import markdown_table
from instsel.selection import bids, less

SHARD = 1000
TASKS = 10
POLL_SECONDS = 0.02

Result = TypeVar("Result")


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the blocks, selects, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=2, default=(1_000_000, 1_000), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--budget", type=int, default=50_000, help="picks")
    parser.add_argument("--folder", type=Path, help="where the blocks are written; default a temporary folder")
    options = parser.parse_args(argv)
    rows, columns = options.shape
    body: list[list[str]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Folder.at(scratch)
        shards = _write(folder, rows, columns)
        matrix = _timed(body, "lay out", lambda: _read(folder, shards, rows, columns))
        subtasks = np.arange(columns) % TASKS
        _timed(body, "less", lambda: less.select(matrix, options.budget, subtasks=subtasks))
        _timed(body, "bids", lambda: bids.select(matrix, options.budget))
    command = shlex.join(["python", "-m", "benchmarks.selection_large", *(sys.argv[1:] if argv is None else argv)])
    print("# Selection from a large attribution matrix\n")
    print(report.facts_list({**report.machine("cpu"), "command": f"`{command}`"}))
    print(f"{rows:,} x {columns:,} float32, {rows * columns * 4 / 1e9:.1f} GB; {options.budget:,} picks.\n")
    print(markdown_table(["", "seconds", "own memory, GB", "mapped pages, GB"], body))


def _write(folder: Folder, rows: int, columns: int) -> list[str]:
    random = np.random.default_rng(0)
    shards = []
    for start in range(0, rows, SHARD):
        block = random.standard_normal((min(SHARD, rows - start), columns), dtype=np.float32)
        scores = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), columns)
        shards.append(f"{start:09d}.arrow")
        folder.write_table(shards[-1], pa.table({"scores": scores}))
    return shards


def _read(folder: Folder, shards: Sequence[str], rows: int, columns: int) -> np.ndarray:
    return stack((list_rows(folder.read_table(shard)["scores"]) for shard in shards), rows, columns)


def _timed(body: list[list[str]], name: str, run: Callable[[], Result]) -> Result:
    start = time.perf_counter()
    with _memory() as highest:
        result = run()
    seconds = time.perf_counter() - start
    body.append([name, f"{seconds:.1f}", f"{highest['RssAnon'] / 1e9:.2f}", f"{highest['RssFile'] / 1e9:.2f}"])
    return result


@contextmanager
def _memory() -> Iterator[dict[str, int]]:
    """The highest of what the kernel counts as the process's own and as mapped, bytes, while the block runs."""
    highest = {"RssAnon": 0, "RssFile": 0}
    done = Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            for line in Path("/proc/self/status").read_text().splitlines():
                key, _, value = line.partition(":")
                if key in highest:
                    highest[key] = max(highest[key], int(value.split()[0]) * 1024)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main()
