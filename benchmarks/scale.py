"""Memory of the driver, the workers and the object store as the pool grows: stage *prepare*, and a pass that writes.

    python -m benchmarks.scale --model FOLDER [--rows 10000 100000 1000000] [--dim 256] [--out FILE]

Makes a pool of short rows, runs stage *prepare* on it, then sends every shard through model actors as stage *features*
does. The actor has no model: it draws unit vectors and writes them as feature shards. Each size has a Ray of its own.
"""

import argparse
import multiprocessing
import shlex
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks import report
from benchmarks.scale_passes import HEADER, Size, measure
from instsel.report.markdown import markdown_table


def main(argv: Sequence[str] | None = None) -> None:
    """Runs every size in a process of its own, and prints or writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder with a tokenizer")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="sizes of the pool")
    parser.add_argument("--shard-rows", type=int, default=1000, help="rows of a shard")
    parser.add_argument("--dim", type=int, default=256, help="entries of a feature")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds that an actor waits at every shard")
    parser.add_argument("--folder", type=Path, help="where pool and study are written; default a temporary folder")
    parser.add_argument("--out", type=Path, help="file of the report; default standard output")
    options = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "benchmarks.scale", *(sys.argv[1:] if argv is None else argv)])
    head = "# A pool that grows\n\n" + report.facts_list({**report.machine("cpu"), "command": f"`{command}`"})
    head += f"\nMemory in MB, of a process its own; features of {options.dim} float16.\n\n"
    body: list[list[str]] = []
    for rows in options.rows:
        size = Size(str(options.model.expanduser()), rows, options.shard_rows, options.dim, options.wait)
        # A process of its own: what one size left in the driver's memory is not counted for the next.
        with (
            tempfile.TemporaryDirectory(dir=options.folder) as folder,
            ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process,
        ):
            body += process.submit(measure, size, folder).result()
        if options.out:
            options.out.write_text(head + markdown_table(HEADER, body), encoding="utf-8")
    print(head + markdown_table(HEADER, body))


if __name__ == "__main__":
    main()
