"""Stage *warmup*: LoRA training on a seeded share of the pool; gradients are later taken at its checkpoints."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from instsel.config.study import StudyConfig
from instsel.io.store import Folder
from instsel.pipeline.probes import training_probe
from instsel.study import dependencies
from instsel.study.estimates import ID_BYTES, TOKEN_BYTES, training_estimate
from instsel.study.results import PrepareResult, WarmupResult
from instsel.study.stage import Finished, PlanContext, RunContext, Settings, Stage, StageEstimate, StageKey

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TRAINING_SET = "training.arrow"
COLUMNS = ["id", "input_ids", "labels"]


class Warmup(Stage[WarmupResult]):
    """Draw the rows, train on them, and name the checkpoints."""

    name = "warmup"
    position = 60

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        return [StageKey("prepare")]

    def settings(self, config: StudyConfig, key: str) -> Settings:
        return {**dependencies.adapter_settings(config), "warmup": dependencies.training_settings(config.warmup)}

    def inputs(self, config: StudyConfig, key: str) -> Settings:
        return dependencies.training_inputs(config)

    def run_key(self, context: RunContext, key: str) -> Finished[WarmupResult]:
        import ray

        from instsel.runtime.training import run_training
        from instsel.runtime.training_run import TrainingRun, TrainingSession

        config, prepare, stage = context.config, context.stage("prepare"), context.stage(self.name)
        pool = prepare.result(PrepareResult).pool
        count = max(1, round(config.warmup.share * pool.rows))
        if not stage.folder.exists(TRAINING_SET):
            ray.get(ray.remote(_write_training_set).remote(prepare.folder, stage.folder, count, config.warmup.seed))
        context.console.say(f"{count} of {pool.rows} rows, {config.warmup.epochs} epochs")
        tokens = config.warmup.epochs * count * pool.tokens / pool.rows
        run = TrainingRun("warmup", stage, config.warmup, (stage.folder, TRAINING_SET), tokens)
        trained = run_training(TrainingSession(config, context.resources, context.console), run)
        result = WarmupResult(rows=count, run=trained.result.run, checkpoints=trained.result.checkpoints)
        return Finished(result, trained.cost)

    def estimate(self, context: PlanContext, keys: Sequence[str]) -> StageEstimate:
        config, counts = context.config, context.counts
        rows = max(1, round(config.warmup.share * counts.rows))
        estimate = training_estimate(context, training_probe(self.name, config, config.warmup), [rows])
        training_set = rows * (ID_BYTES + counts.mean_tokens * TOKEN_BYTES)
        return replace(estimate, disk=estimate.disk + round(training_set))


def _write_training_set(prepared: Folder, out: Folder, count: int, seed: int) -> None:
    """Write rows of the pool that a seed draws, shard by shard; only shards that have some are read."""
    import numpy as np
    import pyarrow as pa

    from instsel.pipeline.prepare_index import shard_ends
    from instsel.selection import random

    shards, ends = shard_ends(prepared)
    drawn = np.sort(random.select(int(ends[-1]), count, seed=seed).indices)
    starts = np.concatenate([[0], ends[:-1]])
    with out.writer(TRAINING_SET) as stream:
        writer = None
        for number, rows in _by_shard(drawn, ends):
            table = (prepared / "pool").read_table(f"{shards[number]}.parquet", COLUMNS)
            table = table.take(pa.array(rows - starts[number]))
            writer = writer or pa.ipc.new_file(stream, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()


def _by_shard(rows: "NDArray[np.int64]", ends: "NDArray[np.int64]") -> "Iterator[tuple[int, NDArray[np.int64]]]":
    """Yield the number of each shard that has some of the sorted rows, and these rows."""
    import numpy as np

    numbers = np.searchsorted(ends, rows, side="right")
    of_shards, firsts = np.unique(numbers, return_index=True)
    yield from zip(of_shards.tolist(), np.split(rows, firsts[1:]), strict=True)
