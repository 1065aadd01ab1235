"""Write the pools of the studies *near* and *far* from a folder of sources.

    python -m benchmarks.evidence.pools DATA OUT

`DATA/pool/SOURCE.jsonl.gz` has the rows of each source in random order, so that the first rows are a uniform sample.
*near* takes most rows from P3 and Super-NaturalInstructions, where rows that serve the targets are. *far* takes as
many, and none of a task from which a target's own questions come.
"""

import argparse
import gzip
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

ROWS = {"p3": 400, "superni": 300}
OTHERS = 5
"""Rows of every other source."""

OWN_TASKS = {
    "p3": ("dream", "sciq", "quartz", "samsum"),
    "superni": ("task1510", "task1687", "task363", "task591_sciq", "task1572_samsum"),
}
"""Beginnings of the names of tasks whose questions, or whose data set, are a target's."""


def rows_of(path: Path, *, far: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows of a source; for *far* those of other tasks than the targets' own."""
    own = OWN_TASKS.get(source_of(path), ()) if far else ()
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if not (row.get("task") or "").startswith(own) if own else True:
                yield row


def source_of(path: Path) -> str:
    """Return the name of a source by its file."""
    return path.name.removesuffix(".jsonl.gz")


def write_pool(data: Path, path: Path, *, far: bool) -> int:
    """Write a pool; return its rows."""
    lines = [
        json.dumps(row, ensure_ascii=False)
        for source in sorted((data / "pool").glob("*.jsonl.gz"))
        for row in islice(rows_of(source, far=far), ROWS.get(source_of(source), OTHERS))
    ]
    temporary = path.with_suffix(".new")
    # Without a time, so that the same rows are the same bytes.
    temporary.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))
    os.replace(temporary, path)
    return len(lines)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with pool/SOURCE.jsonl.gz")
    parser.add_argument("out", type=Path, help="folder for near.jsonl.gz and far.jsonl.gz")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("near", "far"):
        rows = write_pool(options.data, options.out / f"{name}.jsonl.gz", far=name == "far")
        print(f"{options.out / name}.jsonl.gz: {rows:,} rows")


if __name__ == "__main__":
    main()
