"""Time and memory of `instsel report` as the pool grows.

    python -m benchmarks.report_page [--rows 10000 100000 1000000] [--columns 20] [--out FILE]

Writes a finished study of synthetic rows, without a model: short texts in shards of 1,000 rows, stored influence on
`--columns` validation rows of two targets, and four selections of 5 %. Each size is reported by a process of its own.
"""

import argparse
import multiprocessing
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks import report
from benchmarks.report_study import write_study
from instsel.report.html import write_report
from instsel.report.markdown import markdown_table

HEADER = ["rows", "shards", "influence", "seconds", "peak memory", "report.html"]


def main(argv: Sequence[str] | None = None) -> None:
    """Report a study of every size, and print or write what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="sizes of the pool")
    parser.add_argument("--columns", type=int, default=20, help="validation rows")
    parser.add_argument("--folder", type=Path, help="where studies are written; default a temporary folder")
    parser.add_argument("--out", type=Path, help="file of the report; default standard output")
    options = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "benchmarks.report_page", *(sys.argv[1:] if argv is None else argv)])
    body = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            study = Path(folder, "study")
            shards = write_study(study, rows, options.columns)
            # A process of its own, so that its peak is that of the report alone.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                seconds, peak, size = process.submit(measure, str(study)).result()
        influence = f"{rows * options.columns * 4 / 1e6:,.0f} MB"
        body.append(
            [f"{rows:,}", f"{shards:,}", influence, f"{seconds:.1f}", f"{peak / 1e6:,.0f} MB", f"{size / 1e6:.1f} MB"]
        )
    facts = report.facts_list({**report.machine("cpu"), "command": f"`{command}`"})
    text = f"# The report of a pool that grows\n\n{facts}\n{markdown_table(HEADER, body)}"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text)


def measure(study: str) -> tuple[float, int, int]:
    """Seconds that the report took, the peak memory of this process, and the size of the page, bytes."""
    start = time.perf_counter()
    _, page = write_report([study])
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, Path(page).stat().st_size


if __name__ == "__main__":
    main()
