"""The near-copies of stage *prepare*: passes over the shards of the pool, each resumed by file.

1. Template n-grams are counted in a sample of the rows.
2. What remains of each row without them becomes a MinHash signature, whose bands are written by groups of shards.
3. Each band is looked at by itself: rows in one bucket are candidates.
4. Candidates that are connected go to one part, and their words are written by part.
5. Each part is compared word by word.

A row is a number in the order of the pool's files, so that nothing depends on shards or workers. A task holds a group
of shards, a part, or a few numbers of every row.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from instsel.config.study import Data
from instsel.console import Terminal
from instsel.io.store import Folder
from instsel.pipeline.near_duplicate_passes import (
    KEYS,
    SCRATCH,
    TABLE,
    Shard,
    Work,
    compare_part,
    count_templates,
    finish,
    form_parts,
    pair_band,
    sample_group,
    sign_group,
    write_words,
)
from instsel.pipeline.prepare_index import COPIES, READERS, find_exact_copies
from instsel.study.resources import ResourcePlan
from instsel.study.results import NearDuplicatePair, NearDuplicates

if TYPE_CHECKING:
    from instsel.runtime.attempts import AttemptLimiter

ROWS_PER_GROUP, ROWS_PER_PART = 10_000, 20_000
# The buckets of a band are dealt out to tasks of so many rows.
ROWS_PER_BAND_TASK = 2_000_000
# A smaller pool is not worth the passes: one task does the work of all.
ROWS_IN_ONE_TASK = 10_000
MOST_EXAMPLES = 20

Pass = Callable[[Work, int], None]


def find_near_duplicates(
    folder: Folder, shards: Sequence[str], data: Data, resources: ResourcePlan, terminal: Terminal
) -> NearDuplicates | None:
    """Find the near-copies in the shards of stage *prepare*, and write them below its folder.

    Args:
        folder: of the stage.
        shards: their names, in the order of the files.
        data: settings.
        resources: with the limits of work that stands still.
        terminal: where progress is shown.

    Returns:
        What there is to report; None where near-copies are not looked for.
    """
    import ray

    if data.near_duplicates == "off":
        return None
    work = ray.get(ray.remote(_start).remote(folder, shards, data))
    if work is not None:
        run_passes(work, partial(_run_on_ray, resources, terminal))
    result: NearDuplicates = ray.get(ray.remote(near_duplicates_result).remote(folder, data))
    if result.rows:
        what = "dropped" if result.dropped else "kept, see data.near_duplicates"
        terminal.say(f"{result.rows} near-copies of {result.groups} rows: {what}")
    return result


def _start(folder: Folder, shards: Sequence[str], data: Data) -> Work | None:
    """Find the exact copies, and the near-copies of a small pool; return the work that is left."""
    if folder.exists(TABLE):
        # A run may have been killed before it removed them.
        (folder / SCRATCH).remove()
        return None
    find_exact_copies(folder, shards)
    work = plan_passes(folder, shards, data)
    if work.rows > ROWS_IN_ONE_TASK:
        return work
    run_passes(work, run_here)
    return None


def _run_on_ray(resources: ResourcePlan, terminal: Terminal, work: Work, function: Pass, items: int) -> None:
    """Run a pass as tasks of Ray Data."""
    import ray.data

    from instsel.runtime.actors import bounded_dataset, watch
    from instsel.runtime.attempts import AttemptLimiter
    from instsel.runtime.session import cluster_resources

    workers = max(1, min(items, int(cluster_resources().get("CPU", 1))))
    task: Any = _run_item
    dataset = bounded_dataset([{"item": item} for item in range(items)], workers)
    with AttemptLimiter() as attempts, terminal.bar("near-copies", items, "parts") as bar:
        watch(dataset, "prepare: a task of 1 CPU that looks for near-copies", resources, attempts)
        done = dataset.map_batches(
            task,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=1,
            compute=ray.data.TaskPoolStrategy(workers),
            fn_args=(function, work, attempts),
        )
        for _ in done.iter_rows():
            bar.advance(1)


def _run_item(batch: pa.Table, function: Pass, work: Work, attempts: "AttemptLimiter") -> pa.Table:
    for item in batch["item"].to_pylist():
        name = f"{SCRATCH} {function.__name__} {item}"
        attempts.start(work.folder, name, 0, f"near-copies in {work.folder}, {function.__name__} {item}")
        with attempts.working():
            function(work, item)
    return batch


def plan_passes(folder: Folder, shards: Sequence[str], data: Data) -> Work:
    """Number the rows of the pool and put its shards into groups.

    Args:
        folder: of the stage, with the table of exact copies.
        shards: names of the shards, in the order of the files.
        data: settings.
    """
    exact = (folder / "rejected").read_table(COPIES, ["shard"]).group_by("shard").aggregate([("shard", "count")])
    copies = dict(zip(exact["shard"].to_pylist(), exact["shard_count"].to_pylist(), strict=True))
    groups: list[list[Shard]] = []
    end = 0
    with ThreadPoolExecutor(READERS) as readers:
        counts = list(readers.map(partial(_count_rows, folder / "pool"), shards))
    for name, count in zip(shards, counts, strict=True):
        rows = count - copies.get(name, 0)
        if not groups or end - groups[-1][0].first >= ROWS_PER_GROUP:
            groups.append([])
        groups[-1].append(Shard(name, end, end + rows))
        end += rows
    return Work(
        folder,
        groups,
        threshold=data.near_duplicate_threshold,
        drop=data.near_duplicates == "drop",
        band_tasks=max(1, -(-end // ROWS_PER_BAND_TASK)),
        part_rows=ROWS_PER_PART,
    )


def _count_rows(pool: Folder, shard: str) -> int:
    with pool.open(f"{shard}.parquet") as stream:
        rows: int = pq.ParquetFile(stream).metadata.num_rows
    return rows


def run_passes(work: Work, run: Callable[[Work, Pass, int], None]) -> None:
    """Find the near-copies of a pool.

    Args:
        work: what `plan_passes` returned.
        run: called for each pass with the work, a function and the number of its items; it calls the function with
            the work and the number of each item, in any order or in other processes, and returns when all are done.
    """
    groups = len(work.groups)
    run(work, sample_group, groups)
    run(work, count_templates, 1)
    run(work, sign_group, groups)
    run(work, pair_band, KEYS * work.band_tasks)
    run(work, form_parts, 1)
    run(work, write_words, groups)
    run(work, compare_part, work.scratch.read_json("parts.json")["parts"])
    run(work, finish, 1)
    work.scratch.remove()


def run_here(work: Work, function: Pass, items: int) -> None:
    """Run a pass in this process."""
    for item in range(items):
        function(work, item)


def near_duplicates_result(folder: Folder, data: Data) -> NearDuplicates:
    """Count the near-copies in the table of a stage's folder, and choose examples from every source in turn."""
    table = folder.read_table(TABLE, ["id", "source", "kept_id", "kept_source", "similarity"])
    sources = table.group_by("source").aggregate([("source", "count")]).to_pylist()
    source = table["source"].combine_chunks().dictionary_encode().indices.to_numpy()
    # The first of each source, then the second of each, and so on.
    order = np.argsort(source, kind="stable")
    starts = np.flatnonzero(np.diff(source[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    chosen = np.sort(order[np.argsort(rank, kind="stable")][:MOST_EXAMPLES])
    return NearDuplicates(
        threshold=data.near_duplicate_threshold,
        dropped=data.near_duplicates == "drop",
        groups=len(table["kept_id"].unique()),
        rows=len(table),
        sources={row["source"]: row["source_count"] for row in sorted(sources, key=lambda row: str(row["source"]))},
        examples=[NearDuplicatePair(**row) for row in table.take(chosen).to_pylist()],
    )
