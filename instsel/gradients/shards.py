"""Reading a study's gradients back: shards of the pool, and the validation rows that they are scored against."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from instsel.attribution import second_moment
from instsel.errors import StudyError
from instsel.gradients.store import read_features, read_norms, read_pins, require_pins
from instsel.storage import Folder

Pins = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Checkpoint -> kind of rows (pool, validation) -> what their features depend on."""


class GradientShards:
    """The features of a study, by shard; each one is refused that was made from anything else than the pins say."""

    def __init__(self, folder: Folder, pins: Pins) -> None:
        self.folder, self.pins = folder, pins

    def table(self, checkpoint: str, kind: str, name: str) -> pa.Table:
        """One shard as it is stored, of the pool by its name or of `validation` by its target; local ones are mapped.

        Raises:
            StudyError: it was made from something else than the pins say.
        """
        table = (self.folder / checkpoint / kind).read_table(f"{name}.arrow")
        try:
            require_pins(read_pins(table.schema), self.pins[checkpoint][kind])
        except ValueError as error:
            raise StudyError(
                f"features/{checkpoint}/{kind}/{name}.arrow is not of this study: {error}; "
                "delete the study's features folder and run again"
            ) from error
        return table

    def pool(self, shard: str) -> tuple[list[str], list[np.ndarray]]:
        """Ids of a shard's rows that have a feature at every checkpoint, and those features, (rows, d) a checkpoint."""
        return _common([read_features(self.table(name, "pool", shard)) for name in self.pins])

    def ids(self, shard: str) -> list[str]:
        """Ids of a shard's rows that have a feature at the first checkpoint; no feature is read."""
        ids: list[str] = self.table(next(iter(self.pins)), "pool", shard)["id"].to_pylist()
        return ids

    def validation(self, columns: pa.Table) -> list[np.ndarray]:
        """Gradients, not normalised, float32 (m, d) a checkpoint, of the validation rows that `columns` lists."""
        return [self._validation(checkpoint, columns) for checkpoint in self.pins]

    def second_moment(self, shards: Sequence[str], checkpoint: int) -> tuple[np.ndarray, int]:
        """Sum u u^T over the unit rows u of at least one shard, in order.

        Args:
            shards: names.
            checkpoint: its place among the pins.

        Returns:
            float64 (d, d), and the rows that it is of.
        """
        total: np.ndarray = np.zeros(())
        rows = 0
        for number, shard in enumerate(shards):
            ids, checkpoints = self.pool(shard)
            part = second_moment(checkpoints[checkpoint])
            total = part if number == 0 else np.add(total, part, out=total)
            rows += len(ids)
        return total, rows

    def validation_rows(self, name: str) -> tuple[list[str], list[np.ndarray]]:
        """Ids of a table of validation rows that have a gradient at every checkpoint, and those, as `validation`."""
        return _common([_lengthened(self.table(checkpoint, "validation", name)) for checkpoint in self.pins])

    def grouped_sums(self, shard: str, group_of: Mapping[str, int], groups: int) -> tuple[np.ndarray, np.ndarray]:
        """Sum a shard's directions, not normalised, by groups.

        Args:
            shard: name.
            group_of: row -> number of its group; rows without one are left out.
            groups: number of groups.

        Returns:
            float64 (checkpoints, groups, d), and int64 (groups,), the rows in each.
        """
        ids, checkpoints = _common([_lengthened(self.table(checkpoint, "pool", shard)) for checkpoint in self.pins])
        members = np.array([group_of.get(row, groups) for row in ids])
        sums = np.zeros((len(checkpoints), groups, checkpoints[0].shape[1]))
        for group in np.unique(members[members < groups]):
            for place, rows in enumerate(checkpoints):
                sums[place, group] = rows[members == group].sum(axis=0, dtype=np.float64)
        return sums, np.bincount(members, minlength=groups + 1)[:groups].astype(np.int64)

    def _validation(self, checkpoint: str, columns: pa.Table) -> np.ndarray:
        rows: dict[str, np.ndarray] = {}
        for target in dict.fromkeys(columns["target"].to_pylist()):
            ids, gradients = _lengthened(self.table(checkpoint, "validation", target))
            rows |= dict(zip(ids, gradients, strict=True))
        return np.stack([rows[name] for name in columns["id"].to_pylist()])


def _common(found: list[tuple[list[str], np.ndarray]]) -> tuple[list[str], list[np.ndarray]]:
    """Ids that all have, and their rows in each."""
    common = set(found[0][0]).intersection(*(ids for ids, _ in found[1:]))
    ids = [row for row in found[0][0] if row in common]
    if all(len(own) == len(ids) for own, _ in found):
        return ids, [rows for _, rows in found]
    return ids, [rows[[row in common for row in own]] for own, rows in found]


def _lengthened(table: pa.Table) -> tuple[list[str], np.ndarray]:
    """Ids of a feature shard and its rows at the length that they had before they were normalised, float32 (n, d)."""
    ids, features = read_features(table)
    rows = features.astype(np.float32)
    rows *= (read_norms(table) / np.linalg.norm(rows, axis=1))[:, None]
    return ids, rows


def validation_columns(
    prepared: Folder,
    subtasks: Mapping[str, str | None],
    set_aside: Mapping[str, str],
    targets: Sequence[str] | None = None,
) -> pa.Table:
    """The validation rows that have a gradient, one line each: id, target, subtask.

    Args:
        prepared: folder of stage *prepare*.
        subtasks: target -> the column that divides it, or None: the target is then its only subtask.
        set_aside: ids of rows without a usable gradient.
        targets: those that are wanted; default all.

    Raises:
        StudyError: a target has no row with a usable gradient.
    """
    found: list[dict[str, Any]] = []
    # In one order whatever that of the study file, which its JSON copies do not keep.
    for name, column in sorted(subtasks.items()):
        if targets is not None and name not in targets:
            continue
        rows = (prepared / "targets" / name).read_table("validation.parquet", ["id", "task"]).to_pylist()
        kept = [row for row in rows if row["id"] not in set_aside]
        if not kept:
            raise StudyError(f"targets.{name}: no validation row has a usable gradient; lower the warmup learning rate")
        for row in kept:
            subtask = f"{name}/{row['task']}" if column and row["task"] else name
            found.append({"id": row["id"], "target": name, "subtask": subtask})
    return pa.Table.from_pylist(found)
