"""Selection of 5 % of a pool of up to 10^7 rows by their influence on 500 validation rows.

    python -m benchmarks.large_pool [--rows 100000 1000000] [--columns 500] [--folder DIR] [--out FILE]

Blocks of float32 are made up and written as stage *attribution* writes them, a shard of 1,000 rows each, and laid out
as stage *select* does; a shard is deleted once it is laid out, so that the disk holds the matrix once. Each method then
chooses. Before each the file's pages are dropped, so that what it reads comes from the disk. Tells seconds, the
process's highest resident memory, mapped pages included, and the bytes that it read by /proc/self/io.
"""

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pyarrow as pa

from benchmarks import report
from instsel.arrays import MappedPages, list_rows
from instsel.io.matrix import stack
from instsel.io.store import Folder
from instsel.report.markdown import markdown_table
from instsel.selection import Selection, bids, less, round_robin, rules

SHARD = 1000
SHARE = 0.05
DIRECTIONS = 16
"""What rows are good for: influence on a validation row mixes these, and validation rows want some of the same rows."""
TASKS = 10
POLL_SECONDS = 0.05
HEADER = ["rows", "", "seconds", "memory, GB", "GB read", "of the file"]


def main(argv: Sequence[str] | None = None) -> None:
    """Make up pools, choose from each by every method, and print the table or write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="sizes of the pool")
    parser.add_argument("--columns", type=int, default=500, help="validation rows")
    parser.add_argument("--folder", type=Path, help="where blocks and matrix are written; default a temporary folder")
    parser.add_argument("--out", type=Path, help="file to write the table to; default it is printed")
    options = parser.parse_args(argv)
    if options.folder is not None:
        # Where `stack` lays a large matrix out.
        tempfile.tempdir = str(options.folder)
    body: list[list[str]] = []
    for rows in options.rows:
        body += measure(rows, options.columns)
    command = shlex.join(["python", "-m", "benchmarks.large_pool", *(sys.argv[1:] if argv is None else argv)])
    text = (
        "# Selection from large pools\n\n"
        + report.facts_list({**report.machine("cpu"), "command": f"`{command}`"})
        + f"\n{options.columns:,} validation rows, float32; {SHARE:.0%} of the rows are chosen. A matrix of less than"
        " 1 GiB is in memory, and nothing is read.\n\n" + markdown_table(HEADER, body)
    )
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text if text.endswith("\n") else text + "\n")


def measure(rows: int, columns: int) -> list[list[str]]:
    """Return the lines of the table of a pool."""
    methods = choices(columns)
    picks, size = round(SHARE * rows), rows * columns * 4
    body: list[list[str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        with _watched(body, rows, "make up and lay out", size):
            matrix = lay_out(Folder.at(scratch), rows, columns)
        for name, choose in methods.items():
            _drop_pages(matrix)
            with _watched(body, rows, name, size):
                choose(matrix, picks)
    return body


def choices(columns: int) -> dict[str, Callable[[np.ndarray, int], Selection]]:
    """Return the methods: from a matrix and a number of picks to a selection."""
    subtasks = np.arange(columns) % TASKS
    return {
        "bids": bids.select,
        "less": lambda matrix, picks: less.select(matrix, picks, subtasks=subtasks),
        "round_robin": lambda matrix, picks: round_robin.select(matrix, picks, targets=subtasks),
        "sum": lambda matrix, picks: rules.select(matrix, picks, rule="sum", normalize=True),
    }


def lay_out(folder: Folder, rows: int, columns: int) -> np.ndarray:
    """Make up the influence of so many rows, shard by shard, and stack the shards."""

    def blocks() -> Iterator[np.ndarray]:
        random = np.random.default_rng(0)
        mix = random.standard_normal((DIRECTIONS, columns), dtype=np.float32) / np.sqrt(DIRECTIONS, dtype=np.float32)
        for start in range(0, rows, SHARD):
            count = min(SHARD, rows - start)
            block = random.standard_normal((count, DIRECTIONS), dtype=np.float32) @ mix
            block += random.standard_normal((count, columns), dtype=np.float32)
            block *= np.float32(0.02)
            scores = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), columns)
            ids = pa.array([f"{row:016x}" for row in range(start, start + count)])
            shard = f"{start:09d}.arrow"
            folder.write_table(shard, pa.table({"id": ids, "scores": scores}))
            yield list_rows(folder.read_table(shard)["scores"])
            folder.delete(shard)

    return stack(blocks(), rows, columns)


def _drop_pages(matrix: np.ndarray) -> None:
    """Drop the pages of the laid out matrix from the system's memory."""
    MappedPages(matrix).release()
    for link in Path("/proc/self/fd").iterdir():
        try:
            # The file that `stack` lays a large matrix out in has no name.
            if os.readlink(link).startswith(tempfile.gettempdir()):
                os.fsync(int(link.name))
                os.posix_fadvise(int(link.name), 0, 0, os.POSIX_FADV_DONTNEED)
        except FileNotFoundError:
            continue


@contextmanager
def _watched(body: list[list[str]], rows: int, name: str, size: int) -> Iterator[None]:
    """Add a line to the table: what the block took."""
    highest = [0]
    done = Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            highest[0] = max(highest[0], _number("/proc/self/status", "VmRSS") * 1024)

    thread = Thread(target=watch, daemon=True)
    before, start = _number("/proc/self/io", "read_bytes"), time.perf_counter()
    thread.start()
    try:
        yield
    finally:
        seconds = time.perf_counter() - start
        done.set()
        thread.join()
    watched = max(highest[0], _number("/proc/self/status", "VmRSS") * 1024)
    read = _number("/proc/self/io", "read_bytes") - before
    line = [f"{rows:,}", name, f"{seconds:.1f}", f"{watched / 1e9:.2f}", f"{read / 1e9:.2f}", f"{read / size:.2f}"]
    print(*line, file=sys.stderr, flush=True)
    body.append(line)


def _number(file: str, key: str) -> int:
    lines = (line.partition(":") for line in Path(file).read_text().splitlines())
    return next(int(value.split()[0]) for name, _, value in lines if name == key)


if __name__ == "__main__":
    main()
