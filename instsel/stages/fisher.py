"""The Fisher matrix of the pool's features at each checkpoint, summed where the shards are.

Shards are put together in groups by their order, each group is summed by one task, and the driver adds up the groups
in order: the same numbers whatever the number of workers.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from safetensors.numpy import load, save

from instsel.attribution import second_moment
from instsel.gradients.shards import GradientShards
from instsel.progress import Terminal
from instsel.stages.pins import Pins
from instsel.storage import Folder

# The most groups: each leaves a d x d matrix on disk, 0.27 GB at d = 8192.
GROUPS = 32


def fisher_matrices(
    features: Folder, pins: Pins, shards: list[str], out: Folder, terminal: Terminal
) -> Iterator[np.ndarray]:
    """The mean of u u^T over the pool's unit rows u, float64 (d, d), one checkpoint after the other.

    Args:
        features: folder of stage *features*.
        pins: checkpoints in order, and what their features depend on.
        shards: of the pool, in order.
        out: folder for the sums of groups; those that are there are kept.
        terminal: where progress is shown.
    """
    groups = [part.tolist() for part in np.array_split(np.array(shards), min(GROUPS, len(shards)))]
    names = [f"{number:05d}.safetensors" for number in range(len(groups))]
    missing = [
        {"name": name, "shards": group} for name, group in zip(names, groups, strict=True) if not out.exists(name)
    ]
    summing: Any = _sum_group
    if missing:
        summed = ray.data.from_items(missing, override_num_blocks=len(missing)).map_batches(
            summing, batch_size=1, batch_format="pyarrow", num_cpus=1, fn_args=(features, pins, out)
        )
        with terminal.bar("fisher", len(missing), "groups") as bar:
            for _ in summed.iter_rows():
                bar.advance(1)
    for checkpoint in pins:
        total, rows = np.zeros(()), 0
        for name in names:
            found = load(out.read(name))
            total = total + found[checkpoint]
            rows += int(found["rows"][0])
        yield total / rows


def _sum_group(batch: pa.Table, features: Folder, pins: Pins, out: Folder) -> pa.Table:
    gradients = GradientShards(features, pins)
    for item in batch.to_pylist():
        sums: dict[str, np.ndarray] = {}
        rows = 0
        for shard in item["shards"]:
            ids, blocks = gradients.pool(shard)
            rows += len(ids)
            for checkpoint, block in zip(pins, blocks, strict=True):
                sums[checkpoint] = sums.get(checkpoint, 0.0) + second_moment(block)
        # float32 keeps seven digits of a sum that is added to others in float64.
        kept = {name: np.ascontiguousarray(total, dtype=np.float32) for name, total in sums.items()}
        out.write(item["name"], save({**kept, "rows": np.array([rows], dtype=np.int64)}))
    return pa.table({"done": [len(batch)]})
