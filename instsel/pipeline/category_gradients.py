"""Estimator *gradients* of stage *interaction*: from the pool's features, and gradients of the rows evaluated on."""

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from safetensors.numpy import load, save

from instsel.console import Terminal
from instsel.errors import StudyError
from instsel.gradients.features import GradientShards
from instsel.io.store import Folder
from instsel.mixture.categories import FOLDS
from instsel.pipeline.categorize import CATEGORIES, evaluation_file, mixture_of
from instsel.pipeline.features import extract_features, missing_items
from instsel.pipeline.interaction import GRADIENTS, Estimate
from instsel.pipeline.prepare_index import shard_ends
from instsel.study.provenance import Provenance, feature_provenance, settle_provenance
from instsel.study.results import CategoriesResult, PrepareResult, WarmupResult
from instsel.study.stage import Cost, RunContext

SUMS = "sums"
TAGS = "tags"
HELD = "held.parquet"
# Shards are summed up in at most so many groups, whatever the number of workers, and sums then so many at a time: each
# is folds x categories x checkpoints x dim numbers.
GROUPS = 64
FAN_IN = 8


def estimate(context: RunContext) -> Estimate:
    """Take the gradients of the evaluation rows, add up the pool's directions by category, and estimate gamma."""
    from instsel.mixture.interaction import from_gradients

    stage, categorize = context.stage("interaction", GRADIENTS), context.stage("categorize")
    provenance = feature_provenance(context)
    settle_provenance(stage, provenance, context.console)
    names = categorize.result(CategoriesResult).categories
    cost = _take_gradients(context, names, provenance)
    work = Summing(context.stage("features").folder, provenance, stage.folder / TAGS, len(names), stage.folder / SUMS)
    groups = grouped(context.stage("prepare").result(PrepareResult).pool.shards, GROUPS)
    _write_tags_once(context, work, names, groups)
    pool = sum_pool(work, groups, context.console)
    held = _sum_evaluation(stage.folder, names, work.tags.read_table(HELD), provenance)
    work.tags.remove()
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
class Summing:
    """What tasks are given that add up directions.

    Attributes:
        features: folder of stage *features*.
        provenance: of the features.
        tags: where the category and fold of every row are, a file for each group of shards.
        categories: how many there are.
        out: where sums go.
    """

    features: Folder
    provenance: Provenance
    tags: Folder
    categories: int
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


def grouped(items: Sequence[str], most: int) -> list[list[str]]:
    """Split items, in order, into at most so many groups of nearly equal size."""
    groups = min(most, len(items))
    bounds = [len(items) * number // groups for number in range(groups + 1)] if groups else [0]
    return [list(items[start:end]) for start, end in pairwise(bounds)]


def _write_tags_once(context: RunContext, work: Summing, names: list[str], groups: list[list[str]]) -> None:
    import ray

    if work.tags.is_file(HELD):
        return
    folders = context.stage("categorize").folder, context.stage("prepare").folder
    ray.get(ray.remote(write_tags).remote(*folders, work.tags, names, groups))


def write_tags(categorize: Folder, prepare: Folder, out: Folder, names: list[str], groups: list[list[str]]) -> None:
    """Divide the table of categories by groups of shards, so that a task reads the rows of its own shards alone.

    A group's file has the id of each row to train on and its number, that of its fold and category; `HELD`, written
    last, the ids of the others and their folds.
    """
    table = categorize.read_table(CATEGORIES, ["id", "category", "held", "fold"])
    # Categories are in the order of the pool's index.
    shards, ends = shard_ends(prepare)
    end_of = dict(zip(shards, ends.tolist(), strict=True))
    start_of = dict(zip(shards, [0, *ends.tolist()], strict=False))
    category = pc.fill_null(pc.index_in(table["category"].cast(pa.string()), pa.array(names, pa.string())), -1)
    number = pc.add(pc.multiply(table["fold"], len(names)), category)
    used = pc.and_(pc.invert(table["held"]), pc.greater_equal(category, 0))
    tags = pa.table({"id": table["id"], "number": number.cast(pa.int32())})
    for index, group in enumerate(groups):
        start, rows = start_of[group[0]], end_of[group[-1]] - start_of[group[0]]
        out.write_table(f"{index:04d}.parquet", tags.slice(start, rows).filter(used.slice(start, rows)))
    out.write_table(HELD, table.filter(table["held"]).select(["id", "fold"]))


def sum_pool(work: Summing, groups: list[list[str]], console: Terminal) -> tuple[np.ndarray, np.ndarray]:
    """Add up Adam directions of each category and fold, (folds, K, checkpoints, d), and rows, (folds, K).

    A task adds up a group of shards, and others the sums of several groups, so that the driver reads those of the whole
    pool alone. Which numbers are added in which order depends on the shards only.
    """
    items: list[dict[str, Any]] = [{"group": index, "shards": group} for index, group in enumerate(groups)]
    level, function = 0, _sum_group
    while True:
        _run_tasks(function, level, items, work, console)
        if len(items) == 1:
            break
        names = [_name(level, index) for index in range(len(items))]
        items = [{"parts": names[start : start + FAN_IN]} for start in range(0, len(names), FAN_IN)]
        level, function = level + 1, _sum_parts
    total = load(work.out.read(_name(level, 0)))
    work.out.remove()
    by_fold = total["sums"].reshape(len(work.provenance), FOLDS, work.categories, -1)
    return np.moveaxis(by_fold, 0, 2), total["rows"].astype(np.float64).reshape(FOLDS, work.categories)


def _name(level: int, index: int) -> str:
    return f"{level}-{index:04d}.safetensors"


def _run_tasks(function: Any, level: int, items: list[dict[str, Any]], work: Summing, console: Terminal) -> None:
    """Run a task for each item of a level that is not summed up yet."""
    import ray.data

    complete = set(work.out.names())
    missing = [
        {**item, "name": _name(level, index)}
        for index, item in enumerate(items)
        if not is_summed(complete, level, index, len(items))
    ]
    if not missing:
        return
    summed = ray.data.from_items(missing, override_num_blocks=len(missing)).map_batches(
        function, batch_size=1, batch_format="pyarrow", num_cpus=1, fn_args=(work,)
    )
    with console.bar("directions by category", len(missing), "groups") as bar:
        for _ in summed.iter_rows():
            bar.advance(1)


def is_summed(complete: Collection[str], level: int, index: int, items: int) -> bool:
    """Return whether a sum is there, or one of a higher level that it is part of; of such the parts are deleted.

    Args:
        complete: names of the files that are there.
        level: of the sum.
        index: of the sum in its level.
        items: how many sums the level has.
    """
    while _name(level, index) not in complete:
        if items == 1:
            return False
        level, index, items = level + 1, index // FAN_IN, -(-items // FAN_IN)
    return True


def _sum_group(batch: pa.Table, work: Summing) -> pa.Table:
    gradients = GradientShards(work.features, work.provenance)
    for item in batch.to_pylist():
        tags = work.tags.read_table(f"{item['group']:04d}.parquet")
        number_of = dict(zip(tags["id"].to_pylist(), tags["number"].to_pylist(), strict=True))
        total: np.ndarray = np.zeros(())
        counts = np.zeros(FOLDS * work.categories, np.int64)
        for index, shard in enumerate(item["shards"]):
            present, sums, rows = gradients.grouped_sums(shard, number_of)
            if index == 0:
                total = np.zeros((sums.shape[0], len(counts), sums.shape[2]))
            total[:, present] += sums
            counts[present] += rows
        work.out.write(item["name"], save({"sums": total, "rows": counts}))
    return pa.table({"done": [len(batch)]})


def _sum_parts(batch: pa.Table, work: Summing) -> pa.Table:
    for item in batch.to_pylist():
        if work.out.is_file(item["name"]):
            # The worker was lost as it deleted the parts.
            continue
        parts = (load(work.out.read(name)) for name in item["parts"])
        first = next(parts)
        total, counts = first["sums"], first["rows"]
        for part in parts:
            total += part["sums"]
            counts += part["rows"]
        work.out.write(item["name"], save({"sums": total, "rows": counts}))
        for name in item["parts"]:
            work.out.delete(name)
    return pa.table({"done": [len(batch)]})


def _sum_evaluation(
    folder: Folder, names: list[str], held: pa.Table, provenance: Provenance
) -> tuple[np.ndarray, np.ndarray]:
    """Add up the gradients of the evaluation rows in the same way."""
    gradients = GradientShards(folder, provenance)
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
