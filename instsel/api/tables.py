"""The vectors that a study keeps: influence, gradients, embeddings."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instsel.api.vectors import Block, Vectors
from instsel.choice.metrics import SelectionMetrics
from instsel.config.study import StudyConfig
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.selection.base import AttributionSpec
from instsel.study.attribution_specs import attribution_specs, metrics_spec
from instsel.study.gains import read_gains
from instsel.study.reader import StudyReader
from instsel.study.runs import BASE, Run


class StudyArrays:
    """The vectors of a study's folder.

    Attributes:
        path: of the folder.
        config: the study file as it was last run, with every default.
    """

    def __init__(self, path: str, config: StudyConfig, reader: StudyReader) -> None:
        """Use `instsel.open_study`."""
        self.path, self.config, self._reader = path, config, reader

    @property
    def targets(self) -> list[str]:
        """Names of the targets."""
        return sorted(self.config.targets)

    @property
    def influences(self) -> list[str]:
        """Names of the attribution matrices that are stored."""
        return [name for name in attribution_specs(self.config) if self._reader.has(f"attribution/{name}")]

    def attribution(self, name: str | None = None) -> Vectors:
        """Return the influence of pool rows on validation rows, float32, a vector a pool row; see `columns`.

        Args:
            name: of `influences`; by default that of the report's metrics.
        """
        chosen = name or self._metrics_spec.name
        if name is not None:
            require_known("attribution", name, list(attribution_specs(self.config)))
        shards: list[str] = self._reader.manifest(f"attribution/{chosen}")["result"]["shards"]
        self._reader.check_shards(shards)
        folder = self._reader.study / "attribution" / chosen
        read = partial(_column, folder / "blocks", "scores")
        return Vectors(shards, read, folder.read_table("columns.parquet"))

    @property
    def checkpoints(self) -> list[str]:
        """Checkpoints of the warmup that gradients were taken at, the earliest first."""
        # Names sort as text in a manifest: epoch-10 comes before epoch-2.
        return sorted(self._reader.gradients.provenance, key=lambda name: int(name.removeprefix("epoch-")))

    def features(self, checkpoint: str | None = None, kind: Literal["pool", "validation"] = "pool") -> Vectors:
        """Return gradient sketches at a checkpoint, by default the last: unit rows and their norms, float16 or int8.

        Args:
            checkpoint: of `checkpoints`.
            kind: of the pool (blocks are shards), or of validation rows (blocks are targets).
        """
        gradients = self._reader.gradients
        chosen = checkpoint or self.checkpoints[-1]
        require_known("checkpoint", chosen, self.checkpoints)
        require_known("kind", kind, ["pool", "validation"])
        parts = self._reader.shards if kind == "pool" else self.targets
        return Vectors(parts, lambda part: Block.of_features(gradients.table(chosen, kind, part)))

    @property
    def embeddings(self) -> Vectors:
        """Prompt embeddings of the pool by the encoder, float32."""
        return self._vectors("embed")

    @property
    def hidden_states(self) -> Vectors:
        """Weighted mean hidden states of the pool by the model, float32."""
        return self._vectors("hidden_states")

    @property
    def _metrics_spec(self) -> AttributionSpec:
        """The influence behind the metrics of selections."""
        part = self.config.selection
        return metrics_spec(self.config) or AttributionSpec.of(part.attribution, part.damping)

    def _vectors(self, stage: str) -> Vectors:
        self._reader.manifest(stage)
        return Vectors(self._reader.shards, partial(_column, self._reader.study / stage / "pool", "embedding"))


def require_known(what: str, name: str, names: Sequence[str]) -> None:
    """Check that a name is among those that exist.

    Raises:
        InputError: it is not.
    """
    if name not in names:
        raise InputError(f"there is no {what} {name!r}; there are {', '.join(names) or 'none'}")


def _column(folder: Folder, column: str, part: str) -> Block:
    return Block.of_column(folder.read_table(f"{part}.arrow"), column)


ROW = ["id", "source", "task", "messages", "tokens", "answer_tokens", "file", "line"]


def row_table(reader: StudyReader, ids: Sequence[str]) -> pa.Table:
    """Read rows of the pool with their messages, in the order of `ids`; only their shards are read.

    Raises:
        InputError: an id is no row of the pool.
    """
    indices = pc.index_in(pa.array(ids, pa.string()), reader.index["id"].combine_chunks())
    if indices.null_count:
        raise InputError(f"{reader.study} has no pool row {ids[indices.to_pylist().index(None)]!r}; `pool` lists them")
    shards = reader.index["shard"].take(indices).unique().to_pylist() or reader.shards[:1]
    wanted, folder = pa.array(ids, pa.string()), reader.study / "prepare" / "pool"
    tables = (folder.read_table(f"{shard}.parquet", ROW) for shard in shards)
    table = pa.concat_tables([table.filter(pc.is_in(table["id"], wanted)) for table in tables])
    return table.take(pc.index_in(wanted, table["id"].combine_chunks()))


def loss_table(losses: Mapping[str, Mapping[str, float]], runs: Mapping[str, Run]) -> pa.Table:
    """Return a line a run: run, method, seed, mean held-out loss of each target, and the mean over targets (nats)."""
    lines: list[dict[str, str | float | None]] = []
    for name, by_target in losses.items():
        run = runs.get(name)
        mean = float(np.mean(list(by_target.values()))) if by_target else None
        line = {"run": name, "method": run.arm if run else name, "seed": run.seed if run else None}
        lines.append({**line, **by_target, "mean": mean})
    return pa.Table.from_pylist(lines)


def with_gains(losses: pa.Table, evaluate: Folder, targets: Sequence[str]) -> pa.Table:
    """Add form and content of each run's gain to a table of losses, means over targets; null where there are none."""
    columns: dict[str, list[float | None]] = {"form": [], "content": []}
    for run in losses["run"].to_pylist():
        known = [read_gains(evaluate, run, target) for target in targets] if run != BASE else []
        for part, values in columns.items():
            means = [float(getattr(gains, part).mean()) for gains in known if gains is not None]
            values.append(float(np.mean(means)) if means else None)
    for part, values in columns.items():
        losses = losses.append_column(part, pa.array(values, pa.float64()))
    return losses


def gain_table(summary: Mapping[str, Any]) -> pa.Table:
    """Return a line a method and target: items, and form and content of the gain with their intervals."""
    lines = []
    for method, by_target in summary.get("gains", {}).items():
        for target, gain in by_target.items():
            line = {"method": method, "target": target, "items": gain["items"]}
            for part in ("form", "content"):
                interval = gain[part]
                line |= {part: interval["difference"], f"{part}_low": interval["low"], f"{part}_high": interval["high"]}
            lines.append(line)
    numbers = {f"{part}{bound}": pa.float64() for part in ("form", "content") for bound in ("", "_low", "_high")}
    head = {"method": pa.string(), "target": pa.string(), "items": pa.int64()}
    return pa.Table.from_pylist(lines, pa.schema({**head, **numbers}))


def accuracy_table(folders: Mapping[str, Folder], names: Sequence[str], runs: Mapping[str, Run]) -> pa.Table:
    """Return a line a run and test item, see `Study.accuracy`.

    Args:
        folders: run -> folder of its scores.
        names: targets and guards.
        runs: by name, without the base model.
    """
    parts = []
    for name, folder in folders.items():
        run = runs.get(name)
        method, seed = (name, None) if run is None else (run.arm, run.seed)
        for target in (target for target in names if folder.exists(f"{target}.parquet")):
            items = folder.read_table(f"{target}.parquet").drop_columns("document")
            kinds = {"run": pa.string(), "method": pa.string(), "seed": pa.int64(), "target": pa.string()}
            values = zip(kinds.items(), (name, method, seed, target), strict=True)
            columns = {column: pa.repeat(pa.scalar(value, kind), len(items)) for (column, kind), value in values}
            parts.append(pa.table({**columns, **{column: items[column] for column in items.column_names}}))
    return pa.concat_tables(parts)


def comparison_table(summary: Mapping[str, Any]) -> pa.Table:
    """Return a line a method and target (and `mean`): loss, difference to the baseline, its interval and p-value."""
    lines = []
    for method, losses in summary["losses"].items():
        for target, loss in losses.items():
            interval = summary["differences"].get(method, {}).get(target, {})
            difference = {key: interval.get(key) for key in ("difference", "low", "high")}
            # A summary of 0.7.0 has no p-values.
            p_value = summary.get("adjusted_p", {}).get(method, {}).get(target)
            lines.append({"method": method, "target": target, "loss": loss, **difference, "adjusted_p": p_value})
    columns = dict.fromkeys(["loss", "difference", "low", "high", "adjusted_p"], pa.float64())
    return pa.Table.from_pylist(lines, pa.schema({"method": pa.string(), "target": pa.string(), **columns}))


def served_table(metrics: Mapping[str, SelectionMetrics]) -> pa.Table:
    """Return a line a selection and target: rows that serve it most, and the mean standardised influence on it."""
    lines = [
        {"selection": name, "target": target, "rows": rows, "influence": by_target.influence[target]}
        for name, by_target in metrics.items()
        for target, rows in by_target.served.items()
    ]
    columns = {"selection": pa.string(), "target": pa.string(), "rows": pa.int64(), "influence": pa.float64()}
    return pa.Table.from_pylist(lines, pa.schema(columns))
