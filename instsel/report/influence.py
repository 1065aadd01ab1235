"""Whom the pool's sources and the selections help: two passes over the stored influence, a shard at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from instsel.arrays import list_rows
from instsel.report.facts import InfluenceFacts, SelectionInfluence
from instsel.report.pool import Pool
from instsel.report.record import StudyRecord
from instsel.study.attribution_specs import metrics_spec


@dataclass(frozen=True)
class ChosenRows:
    """Influence of the rows that any selection has.

    Attributes:
        indices: in the pool, int64 (k,).
        standard: float32 (k, targets), mean over a target's validation rows of the influence, each column in
            deviations of the pool above the pool's mean.
        targets: names.
    """

    indices: NDArray[np.int64]
    standard: NDArray[np.float32]
    targets: list[str]


def stored_attribution(record: StudyRecord) -> str | None:
    """Name the stored attribution by which influence is shown; None where the study has none."""
    names = [name.partition("/")[2] for name in record.manifests if name.startswith("attribution/")]
    spec = metrics_spec(record.config)
    if spec is not None and spec.name in names:
        return spec.name
    return next((name for name in names if not name.endswith("-subtasks")), None)


def influence(pool: Pool, attribution: str) -> tuple[InfluenceFacts | None, ChosenRows]:
    """Measure the influence of sources and selections on targets, before and after normalisation.

    AID and THI are those of BIDS (arXiv 2501.12147, Section 3): the mean of the chosen rows, and how many rows have
    their largest sum over a target's columns on it. Normalised means that each column has the pool's mean 0 and
    deviation 1. Everything is linear in the sums over columns except THI and the values of single rows, which take the
    second pass.

    Args:
        pool: with its selections.
        attribution: name of the stored influence.

    Returns:
        None where no row of the pool has influence, and the influence of the chosen rows.
    """
    store = _Store(pool, attribution)
    sums = _Sums.of(store)
    if not sums.rows:
        return None, ChosenRows(np.empty(0, np.int64), np.empty((0, len(store.targets)), np.float32), store.targets)
    mean, deviation = sums.moments()
    chosen, raw, normal = _chosen_rows(store, mean, deviation)
    by_source = sums.by_source / np.maximum(sums.source_rows, 1)[:, None]
    selections = {}
    for index, (name, indices) in enumerate(pool.chosen.items()):
        if not sums.selection_rows[index]:
            continue
        picked = np.isin(chosen.indices, indices)
        aid = sums.by_selection[index] / sums.selection_rows[index]
        standard = (aid - mean) / deviation
        selections[name] = SelectionInfluence(
            aid_raw=aid.tolist(),
            aid_normal=standard.tolist(),
            thi_raw=np.bincount(raw[picked], minlength=len(store.targets)).tolist(),
            thi_normal=np.bincount(normal[picked], minlength=len(store.targets)).tolist(),
            balance=(standard @ store.means).tolist(),
        )
    used = sums.source_rows > 0
    sources = zip(pool.facets["source"].names, used, strict=True)
    return InfluenceFacts(
        attribution=attribution,
        targets=store.targets,
        sources=[name for name, is_used in sources if is_used],
        raw=(by_source @ store.means)[used].tolist(),
        normal=(((by_source - mean) / deviation) @ store.means)[used].tolist(),
        columns=store.columns,
        selections=selections,
    ), chosen


class _Store:
    """Stored influence of a pool.

    Attributes:
        columns: target of each validation row.
        targets: names, sorted.
        sums, means: float64 (columns, targets), matrices that sum and that average over the columns of a target.
    """

    def __init__(self, pool: Pool, attribution: str) -> None:
        self.pool = pool
        self._stage = f"attribution/{attribution}"
        self._folder = pool.record.folder / "attribution" / attribution
        self.columns: list[str] = self._folder.read_table("columns.parquet")["target"].to_pylist()
        self.targets = sorted(set(self.columns))
        self.sums = np.eye(len(self.targets))[[self.targets.index(name) for name in self.columns]]
        self.means: NDArray[np.float64] = self.sums / self.sums.sum(axis=0)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield indices in the pool and influence (rows, columns) of the rows of each shard."""
        pool = self.pool
        for shard in pool.record.manifests[self._stage]["result"]["shards"]:
            if shard not in pool.shards:
                continue
            table = (self._folder / "blocks").read_table(f"{shard}.arrow")
            rows = pool.shards[shard]
            positions = pc.index_in(table["id"], value_set=pool.ids.take(rows)).combine_chunks()
            known = pc.is_valid(positions).to_numpy(zero_copy_only=False)
            positions = pc.fill_null(positions, 0).to_numpy(zero_copy_only=False)
            yield rows[positions[known]], list_rows(table.column("scores"))[known]


@dataclass(frozen=True)
class _Sums:
    """Sums over the pool, float64: of all rows and their squares (m,), by source and by selection (., m)."""

    rows: int
    total: np.ndarray
    squares: np.ndarray
    by_source: np.ndarray
    source_rows: np.ndarray
    by_selection: np.ndarray
    selection_rows: np.ndarray

    @classmethod
    def of(cls, store: _Store) -> "_Sums":
        pool, width, facet = store.pool, len(store.columns), store.pool.facets["source"]
        member = np.zeros((len(pool.chosen), pool.rows), dtype=bool)
        for index, indices in enumerate(pool.chosen.values()):
            member[index, indices] = True
        total, squares, rows = np.zeros(width), np.zeros(width), 0
        by_source, source_rows = np.zeros((len(facet.names), width)), np.zeros(len(facet.names), dtype=np.int64)
        by_selection, selection_rows = np.zeros((len(member), width)), np.zeros(len(member), dtype=np.int64)
        for indices, values in store.blocks():
            rows += len(indices)
            total += values.sum(axis=0, dtype=np.float64)
            squares += np.einsum("ij,ij->j", values, values, dtype=np.float64)
            codes = facet.codes[indices]
            for code in np.unique(codes).tolist():
                by_source[code] += values[codes == code].sum(axis=0, dtype=np.float64)
            source_rows += np.bincount(codes, minlength=len(facet.names))
            for index, picked in enumerate(member[:, indices]):
                by_selection[index] += values[picked].sum(axis=0, dtype=np.float64)
                selection_rows[index] += picked.sum()
        return cls(rows, total, squares, by_source, source_rows, by_selection, selection_rows)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation of each column; a deviation of 0 becomes 1."""
        mean = self.total / max(1, self.rows)
        deviation = np.sqrt(np.maximum(self.squares / max(1, self.rows) - mean**2, 0))
        return mean, np.where(deviation > 0, deviation, 1.0)


def _chosen_rows(store: _Store, mean: np.ndarray, deviation: np.ndarray) -> tuple[ChosenRows, np.ndarray, np.ndarray]:
    """Return the chosen rows, and the target that each serves most by its raw and its normalised influence."""
    wanted = np.zeros(store.pool.rows, dtype=bool)
    for indices in store.pool.chosen.values():
        wanted[indices] = True
    rows, standard, raw, normal = [], [], [], []
    for indices, values in store.blocks():
        kept = wanted[indices]
        picked = values[kept].astype(np.float64)
        scaled = (picked - mean) / deviation
        rows.append(indices[kept])
        standard.append((scaled @ store.means).astype(np.float32))
        raw.append((picked @ store.sums).argmax(axis=1))
        normal.append((scaled @ store.sums).argmax(axis=1))
    chosen = ChosenRows(np.concatenate(rows), np.concatenate(standard), store.targets)
    return chosen, np.concatenate(raw), np.concatenate(normal)
