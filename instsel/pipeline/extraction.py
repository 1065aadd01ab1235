"""What stages share that take a forward pass over every table of rows: one table of results for each of them.

An actor commits the results of a table itself and returns counts, so no vector travels through Ray's object store.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pyarrow as pa

from instsel.config.study import StudyConfig
from instsel.errors import StudyError
from instsel.io.store import Folder
from instsel.io.whole import whole_names
from instsel.pipeline.probes import actor_dependencies
from instsel.study.estimates import FLOAT32, ID_BYTES, ActorSpec, BatchProbe, ItemResult, RowSet, batch_estimate
from instsel.study.results import PrepareResult, RejectedRows
from instsel.study.stage import Cost, Finished, PlanContext, RunContext, Settings, Stage, StageEstimate, StageKey

REJECTED_SUFFIX = ".rejected.json"
ZERO = "zero vector"
NOT_FINITE = "NaN or infinity"
VECTOR_FILE_BYTES = 800  # schema and footer of an Arrow file of vectors

Item = dict[str, str]
"""One table of rows: `kind` and `name` of its results, and the path of its `rows` below the folder of *prepare*."""


def pool_items(prepared: PrepareResult) -> list[Item]:
    """Return an item for every shard of the pool."""
    return [{"kind": "pool", "name": shard, "rows": f"pool/{shard}.parquet"} for shard in prepared.pool.shards]


def validation_items(prepared: PrepareResult) -> list[Item]:
    """Return an item for the validation rows of every target."""
    return [
        {"kind": "validation", "name": name, "rows": f"targets/{name}/validation.parquet"} for name in prepared.targets
    ]


class ForwardStage(Stage[RejectedRows]):
    """A stage that puts every row of the pool through a model, and of the targets if they are compared with it."""

    takes_validation: ClassVar[bool] = True
    suffix: ClassVar[str] = ".arrow"

    @abstractmethod
    def actors(self, config: StudyConfig, out: Folder) -> ActorSpec:
        """Return the actors that write results below `out`."""

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        return [StageKey("prepare")]

    def run_key(self, context: RunContext, key: str) -> Finished[RejectedRows]:
        """Write the tables of results that are missing; the result names the rows that are rejected.

        Raises:
            StudyError: no row of the pool has a usable result.
        """
        from instsel.runtime.actors import ActorPool
        from instsel.runtime.errors import Shortage

        prepare, out = context.stage("prepare"), context.stage(self.name).folder
        prepared = prepare.result(PrepareResult)
        items = [*(validation_items(prepared) if self.takes_validation else []), *pool_items(prepared)]
        complete = {kind: whole_names(out / kind) for kind in {item["kind"] for item in items}}
        missing = [item for item in items if f"{item['name']}{self.suffix}" not in complete[item["kind"]]]
        if len(missing) < len(items):
            context.console.say(f"{len(items) - len(missing)} of {len(items)} shards were there already")
        actors, tokens, memory = self.actors(context.config, out), 0, 0
        pool: ActorPool[ItemResult] = ActorPool(
            self.name, missing, prepare.folder, actors.actor, actors.arguments, lambda item: out, actors.columns
        )
        shortage = Shortage(actors.budget_key, actors.budget, context.console)
        with context.console.bar(self.name, len(missing), "shards") as bar:
            for row in pool.run(context.resources):
                tokens += row["tokens"]
                memory = max(memory, row["peak_memory"])
                shortage.look(row["token_budget"])
                bar.advance(1, row["tokens"])
        # A worker that was killed may have left half a file.
        out.clean()
        rejected = {kind: _rejected_rows(out / kind) for kind in complete}
        if len(rejected["pool"]) == prepared.pool.rows:
            reasons = _count_reasons(rejected["pool"])
            raise StudyError(f"{self.name}: no row of the pool has a usable result, {reasons}")
        reasons_by_row = {row: reason for rows in rejected.values() for row, reason in rows.items()}
        if reasons_by_row:
            context.console.say(f"rejected {_count_reasons(reasons_by_row)}")
        return Finished(RejectedRows(rejected=reasons_by_row), Cost(tokens=tokens, peak_memory=memory))

    def estimate(self, context: PlanContext, keys: Sequence[str]) -> StageEstimate:
        config, counts = context.config, context.counts
        sets = [*counts.pool, *(counts.validation if self.takes_validation else [])]
        rows, shards = sum(part.rows for part in sets), sum(part.shards for part in sets)
        inputs = [part for each in sets for part in self.model_inputs(config, each)]
        actors, rate = self.actors(config, context.graph.folder), context.profiler.batches(self.probe(config))
        return replace(
            batch_estimate(self.name, inputs, actors.budget, rate, items=shards),
            disk=self.result_bytes(rows, shards, rate.width),
            memory_advice=f"lower {actors.budget_key} or resources.actors",
        )

    def probe(self, config: StudyConfig) -> BatchProbe:
        """Return the batches that the stage is timed on."""
        return BatchProbe(
            self.name,
            partial(self.rate_dependencies, config),
            partial(self.actors, config),
            {"kind": "pool", "name": "probe"},
            model_inputs=partial(self.model_inputs, config),
        )

    def model_inputs(self, config: StudyConfig, rows: RowSet) -> Sequence[RowSet]:
        """Return what of the rows goes through the model."""
        return [rows]

    def rate_dependencies(self, config: StudyConfig) -> Settings:
        """Return what the rate of the actors depends on, beside the device and the rows."""
        return actor_dependencies(config, self.actors(config, Folder.at(config.out)).budget)

    def result_bytes(self, rows: int, shards: int, width: int) -> int:
        """Return the size of the results of so many rows in so many files, of vectors if they have a width."""
        return rows * (ID_BYTES + FLOAT32 * width) + shards * VECTOR_FILE_BYTES


def write_results(
    out: Folder, item: Item, ids: Sequence[str], table: pa.Table, reasons: Sequence[str | None], suffix: str
) -> None:
    """Commit the results of an item, without the rows that there is a reason to reject.

    Args:
        out: the stage's folder.
        item: as in `pool_items`.
        ids: of the rows, n of them.
        table: their n results.
        reasons: n of them, None for a row that is kept.
        suffix: of the name; tells the format, as `Folder.write_table` has it.
    """
    folder = out / item["kind"]
    rejected = [{"id": row, "reason": reason} for row, reason in zip(ids, reasons, strict=True) if reason]
    if rejected:
        folder.write_json(f"{item['name']}{REJECTED_SUFFIX}", rejected)
    results = table.add_column(0, "id", pa.array(ids, pa.string()))
    kept = pa.array([reason is None for reason in reasons], pa.bool_())
    folder.write_table(f"{item['name']}{suffix}", results.filter(kept).combine_chunks())


def write_vectors(out: Folder, item: Item, ids: Sequence[str], vectors: np.ndarray) -> None:
    """Commit vectors float32 (n, e) as a memory-mappable table: id, embedding FixedSizeList<float32, e>.

    Rows without a direction, zero or not finite, are rejected.
    """
    # In float64 the magnitudes of finite entries have a finite sum, and any other entry makes it infinite or NaN.
    sizes = np.abs(vectors).sum(axis=1, dtype=np.float64)
    reasons = [ZERO if size == 0 else None if np.isfinite(size) else NOT_FINITE for size in sizes.tolist()]
    values = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    table = pa.table({"embedding": pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])})
    write_results(out, item, ids, table, reasons, ".arrow")


def vector_width(out: Folder) -> int:
    """Return the entries of a vector below a stage's folder; 0 where there are no vectors."""
    folder = out / "pool"
    for name in folder.names():
        schema = folder.read_table(name).schema if name.endswith(".arrow") else pa.schema([])
        if "embedding" in schema.names:
            width: int = schema.field("embedding").type.list_size
            return width
    return 0


def _rejected_rows(folder: Folder) -> dict[str, str]:
    names = [name for name in folder.names() if name.endswith(REJECTED_SUFFIX)]
    return {row["id"]: row["reason"] for name in names for row in folder.read_json(name)}


def _count_reasons(reasons: dict[str, str]) -> str:
    return ", ".join(f"{count} rows with {reason}" for reason, count in Counter(reasons.values()).most_common())
