"""The Fisher matrix of the pool's features at each checkpoint, summed where the shards are.

Shards are put together in groups by their order, each group is summed by one task, and the driver adds up the groups
in order: the same numbers whatever the number of workers.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load, save

from instsel.console import Terminal
from instsel.gradients.features import GradientShards
from instsel.io.store import Folder
from instsel.study.provenance import Provenance

# The most groups of a checkpoint. Each leaves a d x d matrix on disk until all are added up, 0.27 GB at d = 8192.
GROUPS = 32


def fisher_matrices(
    features: Folder, provenance: Provenance, dim: int, shards: list[str], out: Folder, terminal: Terminal
) -> Iterator[np.ndarray]:
    """Yield the mean of u u^T over the pool's unit rows u, float64 (d, d), one checkpoint after the other.

    Args:
        features: folder of stage *features*.
        provenance: checkpoints in order, and what their features depend on.
        dim: d.
        shards: of the pool, in order.
        out: folder for the sums of groups; those that are there are kept, and removed when they are added up.
        terminal: where progress is shown.
    """
    groups = [part.tolist() for part in np.array_split(np.array(shards), min(GROUPS, len(shards)))]
    for index, checkpoint in enumerate(provenance):
        items = [
            {"name": f"{number:05d}.safetensors", "checkpoint": index, "shards": group}
            for number, group in enumerate(groups)
        ]
        folder = out / checkpoint
        _sum_groups(
            [item for item in items if not folder.exists(item["name"])], features, provenance, dim, folder, terminal
        )
        total, rows = np.zeros((dim, dim)), 0
        for item in items:
            group_sum = load(folder.read(item["name"]))
            total += group_sum["sum"]
            rows += int(group_sum["rows"][0])
        folder.remove()
        total /= rows
        yield total


def _sum_groups(
    missing: list[dict[str, Any]], features: Folder, provenance: Provenance, dim: int, out: Folder, terminal: Terminal
) -> None:
    if not missing:
        return
    import ray.data

    summing: Any = _sum_group
    # A task holds its sum, a product on its way into it, and a copy to write.
    memory = 20 * dim * dim
    summed = ray.data.from_items(missing, override_num_blocks=len(missing)).map_batches(
        summing, batch_size=1, batch_format="pyarrow", num_cpus=1, memory=memory, fn_args=(features, provenance, out)
    )
    with terminal.bar(f"fisher of {out.name}", len(missing), "groups") as bar:
        for _ in summed.iter_rows():
            bar.advance(1)


def _sum_group(batch: pa.Table, features: Folder, provenance: Provenance, out: Folder) -> pa.Table:
    gradients = GradientShards(features, provenance)
    for item in batch.to_pylist():
        total, rows = gradients.second_moment(item["shards"], item["checkpoint"])
        # float32 keeps seven digits of a sum that is added to others in float64.
        narrow = np.ascontiguousarray(total, dtype=np.float32)
        out.write(item["name"], save({"sum": narrow, "rows": np.array([rows], dtype=np.int64)}))
    return pa.table({"done": [len(batch)]})
