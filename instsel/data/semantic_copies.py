"""Rows that say the same in other words: the nearest other row of a sample, by embeddings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from instsel.arrays import unit_or_zero_rows

SAMPLE = 1_000
# Rows that the sample is compared with at most: 10^12 operations with vectors of 1,000 entries.
MOST_COMPARED = 500_000

Vectors = NDArray[np.float32]
ReadShard = Callable[[str], tuple[Sequence[str], np.ndarray]]


@dataclass(frozen=True)
class NearestRows:
    """The nearest other row of each row of a sample.

    Attributes:
        ids: of the sample, sorted.
        others: id of the nearest other row; empty where there is none.
        cosines: of both, float32 (sample,).
        compared: rows that the sample was compared with.
    """

    ids: list[str]
    others: list[str]
    cosines: NDArray[np.float32]
    compared: int


def nearest_rows(shards: Sequence[str], read: ReadShard, rows: int, sample: int = SAMPLE) -> NearestRows:
    """Find the nearest other row of each row of a sample, with a shard in memory at a time.

    Args:
        shards: names of the shards.
        read: returns ids and embeddings, (n, e), of a shard.
        rows: of all shards; of more than `MOST_COMPARED` every second, third, ... shard is read.
        sample: number of rows; those with the smallest ids are taken, which digests make a uniform sample.
    """
    used = shards[:: max(1, -(-rows // MOST_COMPARED))]
    ids, vectors = _smallest_ids(used, read, sample)
    position = {name: index for index, name in enumerate(ids)}
    cosines, others, compared = np.full(len(ids), -2, dtype=np.float32), [""] * len(ids), 0
    for shard in used:
        names, block = _unit(*read(shard))
        if not len(names) or not ids:
            continue
        scores = block @ vectors.T
        itself = [(row, position[name]) for row, name in enumerate(names) if name in position]
        scores[[row for row, _ in itself], [column for _, column in itself]] = -2
        best = scores.argmax(axis=0)
        for column in np.flatnonzero(scores[best, np.arange(len(ids))] > cosines).tolist():
            cosines[column], others[column] = scores[best[column], column], names[best[column]]
        compared += len(names)
    return NearestRows(ids, others, cosines, compared)


def _smallest_ids(shards: Sequence[str], read: ReadShard, sample: int) -> tuple[list[str], Vectors]:
    ids: list[str] = []
    vectors: Vectors | None = None
    for shard in shards:
        names, block = _unit(*read(shard))
        together = block if vectors is None else np.concatenate([vectors, block])
        ids = [*ids, *names]
        order = np.argsort(np.array(ids), kind="stable")[:sample]
        ids, vectors = [ids[index] for index in order], together[order]
    return ids, np.empty((0, 0), dtype=np.float32) if vectors is None else vectors


def _unit(ids: Sequence[str], vectors: np.ndarray) -> tuple[list[str], Vectors]:
    return list(ids), unit_or_zero_rows(np.asarray(vectors, dtype=np.float32)).astype(np.float32)
