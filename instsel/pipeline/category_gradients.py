"""Estimator *gradients* of stage *interaction*: from the pool's features, and gradients of the rows evaluated on."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from safetensors.numpy import load, save

from instsel.errors import StudyError
from instsel.gradients.features import GradientShards
from instsel.io.store import Folder
from instsel.mixture.categories import FOLDS
from instsel.pipeline.categorize import CATEGORIES, evaluation_file, mixture_of
from instsel.pipeline.features import extract_features, missing_items
from instsel.pipeline.interaction import GRADIENTS, Estimate
from instsel.study.provenance import Provenance, feature_provenance, settle_provenance
from instsel.study.results import CategoriesResult, PrepareResult, WarmupResult
from instsel.study.stage import Cost, RunContext

SUMS = "sums"


def estimate(context: RunContext) -> Estimate:
    """Take the gradients of the evaluation rows, add up the pool's directions by category, and estimate gamma."""
    from instsel.mixture.interaction import from_gradients

    stage, categorize = context.stage("interaction", GRADIENTS), context.stage("categorize")
    provenance = feature_provenance(context)
    settle_provenance(stage, provenance, context.console)
    names = categorize.result(CategoriesResult).categories
    cost = _take_gradients(context, names, provenance)
    work = _Summing(context.stage("features").folder, provenance, categorize.folder, names, stage.folder / SUMS)
    pool = _sum_pool(context, work)
    held = _sum_evaluation(stage.folder, names, categorize.folder.read_table(CATEGORIES), provenance)
    # As many groups as the smallest category fills, on either side.
    folds = int(min(FOLDS, (pool[1] > 0).sum(axis=0).min(), (held[1] > 0).sum(axis=0).min()))
    if not folds:
        raise StudyError("interaction: a category has no row with a usable gradient; raise mixture.least_rows")
    steps, slopes = group_means(*pool, folds), group_means(*held, folds)
    checkpoints = context.stage("warmup").result(WarmupResult).checkpoints
    rates = np.array([checkpoints[name].learning_rate for name in provenance])
    weighted = (steps * (rates / rates.sum())[:, None]).reshape(folds, len(names), -1)
    threshold = mixture_of(context.config).threshold
    # What is unknown is named in the result.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        effects = from_gradients(weighted, slopes.reshape(folds, len(names), -1), threshold=threshold)
    return Estimate(names, effects, cost)


@dataclass(frozen=True)
class _Summing:
    """What tasks are given that add up directions: features, categories of rows, and where sums go."""

    features: Folder
    provenance: Provenance
    categories: Folder
    names: list[str]
    out: Folder


def _take_gradients(context: RunContext, names: list[str], provenance: Provenance) -> Cost:
    """Take plain gradients of the evaluation rows, as the features stage takes those of targets."""
    items = [
        {"checkpoint": name, "kind": "validation", "rows": evaluation_file(number), "name": f"{number:04d}"}
        for name in provenance
        for number in range(len(names))
    ]
    folder = context.stage("interaction", GRADIENTS).folder
    rows = context.stage("categorize").folder
    return extract_features(context, folder, provenance, rows, missing_items(items, folder))


def _sum_pool(context: RunContext, work: _Summing) -> tuple[np.ndarray, np.ndarray]:
    """Add up Adam directions of each category and fold, (folds, K, checkpoints, d), and rows, (folds, K)."""
    import ray.data

    shards = context.stage("prepare").result(PrepareResult).pool.shards
    complete = set(work.out.names())
    missing = [{"shard": shard} for shard in shards if f"{shard}.safetensors" not in complete]
    if missing:
        summing: Any = _sum_shard
        summed = ray.data.from_items(missing, override_num_blocks=len(missing)).map_batches(
            summing, batch_size=1, batch_format="pyarrow", num_cpus=1, fn_args=(work,)
        )
        with context.console.bar("directions by category", len(missing), "shards") as bar:
            for _ in summed.iter_rows():
                bar.advance(1)
    totals: np.ndarray = np.zeros(())
    rows = np.zeros(FOLDS * len(work.names))
    for shard in shards:
        sums = load(work.out.read(f"{shard}.safetensors"))
        totals = totals + sums["sums"].astype(np.float64)
        rows += sums["rows"]
    work.out.remove()
    by_fold = totals.reshape(len(work.provenance), FOLDS, len(work.names), -1)
    return np.moveaxis(by_fold, 0, 2), rows.reshape(FOLDS, len(work.names))


def _sum_shard(batch: pa.Table, work: _Summing) -> pa.Table:
    table = work.categories.read_table(CATEGORIES, ["id", "category", "held", "fold"])
    number = {name: index for index, name in enumerate(work.names)}
    gradients = GradientShards(work.features, work.provenance)
    for shard in batch["shard"].to_pylist():
        rows_of_shard = table.filter(pc.is_in(table["id"], pa.array(gradients.ids(shard), pa.string())))
        group_of = {
            row["id"]: row["fold"] * len(work.names) + number[row["category"]]
            for row in rows_of_shard.to_pylist()
            if not row["held"] and row["category"] in number
        }
        sums, rows = gradients.grouped_sums(shard, group_of, FOLDS * len(work.names))
        work.out.write(f"{shard}.safetensors", save({"sums": sums.astype(np.float32), "rows": rows}))
    return pa.table({"done": [len(batch)]})


def _sum_evaluation(
    folder: Folder, names: list[str], categories: pa.Table, provenance: Provenance
) -> tuple[np.ndarray, np.ndarray]:
    """Add up the gradients of the evaluation rows in the same way."""
    gradients = GradientShards(folder, provenance)
    held = categories.filter(categories["held"])
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
    means: np.ndarray = totals / counts.reshape(*counts.shape, *[1] * (sums.ndim - 2))
    return means
