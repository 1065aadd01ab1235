"""Time and memory to write a selection: 5 % of made-up pools whose rows have 1,000 tokens.

    python -m benchmarks.selection_writing [--rows 100000] [--tokens 1000] [--share 0.05] [--folder DIR] [--here]

Shards of 1,000 rows are written as stage *prepare* writes them; picks are in random order. Tells seconds and the most
memory of the driver and of the heaviest worker, beyond what each had at its start, as the system counts it (resident).
With `--here` all is done in this process, without Ray.
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
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import report
from instsel.choice.output import write_rows
from instsel.choice.picks import Picks
from instsel.data.encode import EXAMPLES
from instsel.io.store import Folder
from instsel.report.markdown import markdown_table

SHARD = 1000
VOCABULARY = 32_000
LETTERS = 4
"""Of a token's text."""

POLL_SECONDS = 0.02


def main(argv: Sequence[str] | None = None) -> None:
    """Makes pools, writes a selection of each, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000], help="of the pools")
    parser.add_argument("--tokens", type=int, default=1000, help="of a row")
    parser.add_argument("--share", type=float, default=0.05, help="of the rows that is selected")
    parser.add_argument("--folder", type=Path, help="where the pools are written; default a temporary folder")
    parser.add_argument("--here", action="store_true", help="write in this process, without Ray")
    options = parser.parse_args(argv)
    body = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
            prepared = Folder.at(scratch) / "prepare"
            ids = make_pool(prepared, rows, options.tokens)
            picks = make_picks(ids, round(rows * options.share))
            with _runner(options.here) as arguments, peaks() as memory:
                start = time.monotonic()
                result = write_rows(prepared, Folder.at(scratch) / "select", picks, *arguments)
                seconds = time.monotonic() - start
            sizes = [f"{value / 2**20:,.0f}" for value in memory()]
            body.append([f"{rows:,}", f"{result.rows:,}", f"{seconds:.1f}", *sizes])
    command = shlex.join(["python", "-m", "benchmarks.selection_writing", *(sys.argv[1:] if argv is None else argv)])
    print("# Selections written\n")
    print(report.facts_list({**report.machine("cpu"), "command": f"`{command}`"}))
    print(markdown_table(["rows", "picks", "seconds", "driver, MiB more", "heaviest worker, MiB more"], body))


def make_pool(prepared: Folder, rows: int, tokens: int) -> pa.Array:
    """Write a pool of random tokens; return the ids of its rows."""
    draw, every = np.random.default_rng(0), []
    with prepared.writer("index.parquet") as stream:
        schema = pa.schema([("id", pa.string()), ("shard", pa.string())])
        with pq.ParquetWriter(stream, schema) as writer:
            for start in range(0, rows, SHARD):
                count, name = min(SHARD, rows - start), f"00000-{start:06d}"
                ids = pa.array([f"{number:032x}" for number in range(start, start + count)])
                (prepared / "pool").write_table(f"{name}.parquet", _shard(ids, tokens, draw))
                writer.write_table(pa.table({"id": ids, "shard": [name] * count}, schema))
                every.append(ids)
    return pa.concat_arrays(every)


def _shard(ids: pa.Array, tokens: int, draw: np.random.Generator) -> pa.Table:
    count = len(ids)
    numbers = pa.array(draw.integers(0, VOCABULARY, count * tokens, dtype=np.int32))
    lists = pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * tokens), numbers)
    letters = draw.integers(97, 123, count * tokens * LETTERS, dtype=np.uint8).tobytes().decode()
    size = tokens * LETTERS // 2
    texts = [letters[start : start + size] for start in range(0, 2 * size * count, size)]
    messages = [
        [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
        for ask, answer in zip(texts[::2], texts[1::2], strict=True)
    ]
    columns: dict[str, Any] = {
        "id": ids,
        "source": ["made-up"] * count,
        "messages": messages,
        "input_ids": lists,
        "labels": lists,
        "tokens": [tokens] * count,
        "answer_tokens": [tokens // 2] * count,
        "file": ["rows.jsonl"] * count,
        "line": list(range(count)),
    }
    arrays = [
        columns[field.name].cast(field.type)
        if isinstance(columns.get(field.name), pa.Array)
        else pa.array(columns.get(field.name, [None] * count), field.type)
        for field in EXAMPLES
    ]
    return pa.Table.from_arrays(arrays, schema=EXAMPLES)


def make_picks(ids: pa.Array, count: int) -> Picks:
    """Pick rows in random order."""
    chosen = ids.take(pa.array(np.random.default_rng(1).permutation(len(ids))[:count]))
    reasons = pa.array(["validation example made-up:0001"] * count)
    ranks, scores = pa.array(np.arange(count)), pa.array(np.linspace(1, 0, count))
    return Picks(pa.table({"id": chosen, "rank": ranks, "score": scores, "reason": reasons}))


@contextmanager
def _runner(here: bool) -> Iterator[list[Any]]:
    """Yield what `write_rows` runs its jobs by, with a Ray of its own."""
    if here:
        yield []
        return
    import ray

    from instsel.pipeline.select import run_in_tasks

    ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    try:
        # Workers that have loaded what they need: what they have then is their start.
        run_in_tasks(_load, [()] * (os.cpu_count() or 1))
        yield [run_in_tasks]
    finally:
        ray.shutdown()


def _load() -> None:
    import instsel.choice.output  # noqa: F401

    time.sleep(2)


@contextmanager
def peaks() -> Iterator[Callable[[], tuple[int, int]]]:
    """Watch the resident memory of this process and of its workers; what is yielded tells the most beyond the start."""
    driver, done = psutil.Process(), Event()
    first: dict[int, int] = {}
    most: dict[int, int] = {}

    def look() -> None:
        for process in [driver, *driver.children(recursive=True)]:
            try:
                is_worker = process.pid == driver.pid or process.name().startswith("ray::")
                size = process.memory_info().rss if is_worker else 0
            except psutil.NoSuchProcess:
                continue
            if size:
                first.setdefault(process.pid, size)
                most[process.pid] = max(most.get(process.pid, 0), size)

    def poll() -> None:
        while not done.wait(POLL_SECONDS):
            look()

    look()
    thread = Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield lambda: (
            most[driver.pid] - first[driver.pid],
            max((most[pid] - first[pid] for pid in most if pid != driver.pid), default=0),
        )
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main()
