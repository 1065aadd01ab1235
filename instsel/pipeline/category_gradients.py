"""Estimator *gradients* of stage *interaction*: from the pool's features, and gradients of the rows evaluated on."""

import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from safetensors.numpy import load, save

from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.errors import StudyError
from instsel.gradients.features import GradientShards
from instsel.io.store import Folder
from instsel.mixture.categories import FOLDS
from instsel.mixture.interaction import from_gradients
from instsel.pipeline import features as extraction
from instsel.pipeline import interaction
from instsel.pipeline.categorize import TAGS, evaluation_file
from instsel.runtime.session import ResourcePlan
from instsel.study.folder import StageFolder
from instsel.study.provenance import Provenance, feature_provenance, settle_provenance

SUMS = "sums"


def run(
    study: StudyConfig,
    stage: StageFolder,
    tag: StageFolder,
    prepare: StageFolder,
    warmup: StageFolder,
    features: StageFolder,
    resources: ResourcePlan,
    terminal: Terminal,
) -> None:
    """Take the gradients of the evaluation rows, add up the pool's directions by category, and estimate gamma."""
    stage.start()
    assert study.mixture is not None
    provenance = feature_provenance(study, features, prepare, warmup)
    settle_provenance(stage, provenance, terminal)
    names: list[str] = tag.manifest()["result"]["categories"]
    tags = tag.folder.read_table(TAGS)
    spent = _take_gradients(study, stage, names, tag, warmup, provenance, resources, terminal)
    shards = prepare.manifest()["result"]["pool"]["shards"]
    pool = _pool_directions(stage, names, tag, features, provenance, shards, terminal)
    held = _evaluation_gradients(stage, names, tags, provenance)
    # As many groups as the smallest category fills, on either side.
    folds = int(min(FOLDS, (pool[1] > 0).sum(axis=0).min(), (held[1] > 0).sum(axis=0).min()))
    if not folds:
        raise StudyError("interaction: a category has no row with a usable gradient; raise mixture.least_rows")
    steps, slopes = group_means(*pool, folds), group_means(*held, folds)
    checkpoints = warmup.manifest()["result"]["checkpoints"]
    rates = np.array([checkpoints[name]["learning_rate"] for name in provenance])
    weighted = (steps * (rates / rates.sum())[:, None]).reshape(folds, len(names), -1)
    # What is unknown is named in the result.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = from_gradients(weighted, slopes.reshape(folds, len(names), -1), threshold=study.mixture.threshold)
    interaction.commit(stage, names, found, None, {}, tokens=spent[0], peak_memory=spent[1], terminal=terminal)


def _take_gradients(
    study: StudyConfig,
    stage: StageFolder,
    names: list[str],
    tag: StageFolder,
    warmup: StageFolder,
    provenance: Provenance,
    resources: ResourcePlan,
    terminal: Terminal,
) -> tuple[int, int]:
    """Plain gradients of the evaluation rows, as the features stage takes those of targets; tokens and memory."""
    items = [
        {"checkpoint": name, "kind": "validation", "rows": evaluation_file(number), "name": f"{number:04d}"}
        for name in provenance
        for number in range(len(names))
    ]
    missing = extraction.missing_items(items, stage.folder)
    return extraction.extract_features(
        study, stage.folder, provenance, tag.folder, warmup, missing, resources, terminal
    )


def _pool_directions(
    stage: StageFolder,
    names: list[str],
    tag: StageFolder,
    features: StageFolder,
    provenance: Provenance,
    shards: list[str],
    terminal: Terminal,
) -> tuple[np.ndarray, np.ndarray]:
    """Summed Adam directions of each category in each fold, (folds, K, checkpoints, d), and their rows, (folds, K)."""
    out = stage.folder / SUMS
    there = set(out.names())
    missing = [{"shard": shard} for shard in shards if f"{shard}.safetensors" not in there]
    if missing:
        summing: Any = _sum_shard
        arguments = (features.folder, provenance, tag.folder, names, out)
        summed = ray.data.from_items(missing, override_num_blocks=len(missing)).map_batches(
            summing, batch_size=1, batch_format="pyarrow", num_cpus=1, fn_args=arguments
        )
        with terminal.bar("directions by category", len(missing), "shards") as bar:
            for _ in summed.iter_rows():
                bar.advance(1)
    totals: np.ndarray = np.zeros(())
    rows = np.zeros(FOLDS * len(names))
    for shard in shards:
        found = load(out.read(f"{shard}.safetensors"))
        totals = totals + found["sums"].astype(np.float64)
        rows += found["rows"]
    out.remove()
    sums = totals.reshape(len(provenance), FOLDS, len(names), -1)
    return np.moveaxis(sums, 0, 2), rows.reshape(FOLDS, len(names))


def _sum_shard(
    batch: pa.Table, features: Folder, provenance: Provenance, tags: Folder, names: list[str], out: Folder
) -> pa.Table:
    table = tags.read_table(TAGS, ["id", "category", "held", "fold"])
    number = {name: place for place, name in enumerate(names)}
    gradients = GradientShards(features, provenance)
    for shard in batch["shard"].to_pylist():
        own = table.filter(pc.is_in(table["id"], pa.array(gradients.ids(shard), pa.string())))
        group_of = {
            row["id"]: row["fold"] * len(names) + number[row["category"]]
            for row in own.to_pylist()
            if not row["held"] and row["category"] in number
        }
        sums, rows = gradients.grouped_sums(shard, group_of, FOLDS * len(names))
        out.write(f"{shard}.safetensors", save({"sums": sums.astype(np.float32), "rows": rows}))
    return pa.table({"done": [len(batch)]})


def _evaluation_gradients(
    stage: StageFolder, names: list[str], tags: pa.Table, provenance: Provenance
) -> tuple[np.ndarray, np.ndarray]:
    """The same of the gradients of the evaluation rows."""
    gradients = GradientShards(stage.folder, provenance)
    held = tags.filter(tags["held"])
    fold_of = dict(zip(held["id"].to_pylist(), held["fold"].to_pylist(), strict=True))
    sums, rows = [], np.zeros((FOLDS, len(names)))
    for number in range(len(names)):
        ids, checkpoints = gradients.validation_rows(f"{number:04d}")
        folds = np.array([fold_of[row] for row in ids])
        members = [folds == fold for fold in range(FOLDS)]
        rows[:, number] = [member.sum() for member in members]
        sums.append([[values[member].sum(axis=0, dtype=np.float64) for values in checkpoints] for member in members])
    return np.moveaxis(np.array(sums), 0, 1), rows


def group_means(sums: np.ndarray, rows: np.ndarray, groups: int) -> np.ndarray:
    """Put folds together to so many groups, and take the means.

    Args:
        sums: (folds, K, ...), sums over rows.
        rows: (folds, K), how many.
        groups: at most as many as folds; each has rows of every category.

    Returns:
        (groups, K, ...).
    """
    totals = np.stack([sums[group::groups].sum(axis=0) for group in range(groups)])
    counts = np.stack([rows[group::groups].sum(axis=0) for group in range(groups)])
    found: np.ndarray = totals / counts.reshape(*counts.shape, *[1] * (sums.ndim - 2))
    return found
