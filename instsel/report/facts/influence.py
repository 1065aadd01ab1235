"""Whom the pool's sources and the selections help: two passes over the stored influence, a shard at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from instsel.arrays import list_rows
from instsel.mixture.dependency import LEVELS
from instsel.report.facts.pool import Facet, Pool
from instsel.report.facts.record import Record
from instsel.study.attribution_specs import metrics_spec
from instsel.training.dataset import ORDER


@dataclass(frozen=True)
class Served:
    """What the chosen rows do for the targets.

    Attributes:
        places: of the rows that any selection has, int64 (k,).
        standard: float32 (k, targets), mean over a target's validation rows of the influence, each column in
            deviations of the pool above the pool's mean.
        targets: names.
    """

    places: NDArray[np.int64]
    standard: NDArray[np.float32]
    targets: list[str]


def stored_influence(record: Record) -> str | None:
    """The stored influence that figures are by; None where the study has none."""
    ways = [name.partition("/")[2] for name in record.manifests if name.startswith("attribution/")]
    own = metrics_spec(record.study)
    if own is not None and own.name in ways:
        return own.name
    return next((name for name in ways if not name.endswith("-subtasks")), None)


def influence(pool: Pool, way: str, facet: Facet) -> tuple[dict[str, Any], Served]:
    """Influence of sources and selections on targets, before and after normalisation.

    AID and THI are those of BIDS (arXiv 2501.12147, Section 3): the mean of the chosen rows, and how many rows have
    their largest sum over a target's columns on it. Normalised means that each column has the pool's mean 0 and
    deviation 1. All is linear in the columns' sums but THI and the rows' own figures, which take the second pass.

    Args:
        pool: with its selections.
        way: name of the stored influence.
        facet: the sources.

    Returns:
        JSON values: `way`, `targets`, `sources` with `raw` and `normal` (sources, targets); `columns`, target of each
        validation row; by selection `aid_raw` and `aid_normal` (columns,), `thi_raw` and `thi_normal` (targets,),
        `balance` (targets,); empty where no row of the pool has influence. And the rows' own figures.
    """
    columns = (pool.record.folder / "attribution" / way).read_table("columns.parquet")["target"].to_pylist()
    targets = sorted(set(columns))
    of_target = np.array([targets.index(name) for name in columns])
    sums = _Sums.of(pool, way, facet, len(columns))
    if not sums.rows:
        return {}, Served(np.empty(0, np.int64), np.empty((0, len(targets)), np.float32), targets)
    mean, deviation = sums.moments()
    means = _mean_by(of_target, len(targets))
    served, raw, normal = _rows(pool, way, of_target, mean, deviation)
    by_source = sums.by_source / np.maximum(sums.source_rows, 1)[:, None]
    selections = {}
    for number, (name, places) in enumerate(pool.chosen.items()):
        own = np.isin(served.places, places)
        if not sums.selection_rows[number]:
            continue
        aid = sums.by_selection[number] / sums.selection_rows[number]
        standard = (aid - mean) / deviation
        selections[name] = {
            "aid_raw": aid.tolist(),
            "aid_normal": standard.tolist(),
            "thi_raw": np.bincount(raw[own], minlength=len(targets)).tolist(),
            "thi_normal": np.bincount(normal[own], minlength=len(targets)).tolist(),
            "balance": (standard @ means).tolist(),
        }
    there = sums.source_rows > 0
    found = {
        "way": way,
        "targets": targets,
        "sources": [name for name, some in zip(facet.names, there, strict=True) if some],
        "raw": (by_source @ means)[there].tolist(),
        "normal": (((by_source - mean) / deviation) @ means)[there].tolist(),
        "columns": columns,
        "selections": selections,
    }
    return found, served


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
    def of(cls, pool: Pool, way: str, facet: Facet, width: int) -> "_Sums":
        member = np.zeros((len(pool.chosen), pool.rows), dtype=bool)
        for number, places in enumerate(pool.chosen.values()):
            member[number, places] = True
        total, squares, rows = np.zeros(width), np.zeros(width), 0
        by_source, source_rows = np.zeros((len(facet.names), width)), np.zeros(len(facet.names), dtype=np.int64)
        by_selection, selection_rows = np.zeros((len(member), width)), np.zeros(len(member), dtype=np.int64)
        for places, values in _blocks(pool, way):
            rows += len(places)
            total += values.sum(axis=0, dtype=np.float64)
            squares += np.einsum("ij,ij->j", values, values, dtype=np.float64)
            codes = facet.codes[places]
            for code in np.unique(codes).tolist():
                by_source[code] += values[codes == code].sum(axis=0, dtype=np.float64)
            source_rows += np.bincount(codes, minlength=len(facet.names))
            for number, own in enumerate(member[:, places]):
                by_selection[number] += values[own].sum(axis=0, dtype=np.float64)
                selection_rows[number] += own.sum()
        return cls(rows, total, squares, by_source, source_rows, by_selection, selection_rows)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        mean = self.total / max(1, self.rows)
        variance = np.maximum(self.squares / max(1, self.rows) - mean**2, 0)
        deviation = np.sqrt(variance)
        return mean, np.where(deviation > 0, deviation, 1.0)


def _rows(
    pool: Pool, way: str, of_target: np.ndarray, mean: np.ndarray, deviation: np.ndarray
) -> tuple[Served, np.ndarray, np.ndarray]:
    """The chosen rows' figures, and which target each serves most by its raw and its normalised influence."""
    targets = int(of_target.max()) + 1
    means, sums = _mean_by(of_target, targets), np.eye(targets)[of_target]
    wanted = np.zeros(pool.rows, dtype=bool)
    for places in pool.chosen.values():
        wanted[places] = True
    found, standard, raw, normal = [], [], [], []
    for places, values in _blocks(pool, way):
        kept = wanted[places]
        own = values[kept].astype(np.float64)
        scaled = (own - mean) / deviation
        found.append(places[kept])
        standard.append((scaled @ means).astype(np.float32))
        raw.append((own @ sums).argmax(axis=1))
        normal.append((scaled @ sums).argmax(axis=1))
    names = sorted(set((pool.record.folder / "attribution" / way).read_table("columns.parquet")["target"].to_pylist()))
    return (
        Served(np.concatenate(found), np.concatenate(standard), names),
        np.concatenate(raw),
        np.concatenate(normal),
    )


def _mean_by(of_target: np.ndarray, targets: int) -> np.ndarray:
    """A matrix (columns, targets) that means over the columns of a target."""
    member = np.eye(targets)[of_target]
    averages: np.ndarray = member / member.sum(axis=0)
    return averages


def _blocks(pool: Pool, way: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places in the index and influence (rows, m) of the rows of each shard."""
    folder = pool.record.folder / "attribution" / way / "blocks"
    for shard in pool.record.manifests[f"attribution/{way}"]["result"]["shards"]:
        if shard not in pool.shards:
            continue
        table = folder.read_table(f"{shard}.arrow")
        own = pool.shards[shard]
        inside = pc.index_in(table["id"], value_set=pool.ids.take(own)).combine_chunks()
        known = pc.is_valid(inside).to_numpy(zero_copy_only=False)
        number = pc.fill_null(inside, 0).to_numpy(zero_copy_only=False)
        yield own[number[known]], list_rows(table.column("scores"))[known]


MOST_WINDOWS = 40
LEAST_ROWS = 8


def orders(record: Record) -> dict[str, Any]:
    """Shares of the levels along each training that has an order of its own.

    Returns:
        run -> `rows` at the end of each window, of equal sizes, and `shares`, level -> share of the window's rows.
    """
    found = {}
    for name in record.results("finetune"):
        folder = record.folder / "finetune" / name
        if folder.exists(ORDER):
            found[name] = _shares(folder.read_table(ORDER, ["level"])["level"].to_numpy())
    return found


def _shares(levels: np.ndarray) -> dict[str, Any]:
    windows = np.array_split(levels, min(MOST_WINDOWS, max(1, len(levels) // LEAST_ROWS)))
    return {
        "rows": np.cumsum([len(part) for part in windows]).tolist(),
        "shares": {level: [float((part == number).mean()) for part in windows] for number, level in enumerate(LEVELS)},
    }
