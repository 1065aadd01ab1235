"""Stage *warmup*: LoRA training on a seeded share of the pool; gradients are later taken at its checkpoints."""

from collections.abc import Sequence
from dataclasses import replace

from instsel.config.study import StudyConfig
from instsel.io.store import Folder
from instsel.pipeline.probes import training_probe
from instsel.study import dependencies
from instsel.study.estimates import ID_BYTES, TOKEN_BYTES, training_estimate
from instsel.study.results import PrepareResult, WarmupResult
from instsel.study.stage import Finished, PlanContext, RunContext, Settings, Stage, StageEstimate, StageKey

TRAINING_SET = "training.arrow"


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
        estimate = training_estimate(context, training_probe(self.name, config, config.warmup), rows)
        training_set = rows * (ID_BYTES + counts.mean_tokens * TOKEN_BYTES)
        return replace(estimate, disk=estimate.disk + round(training_set))


def _write_training_set(prepared: Folder, out: Folder, count: int, seed: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from instsel.selection import random

    index = prepared.read_table("index.parquet", ["id", "shard"])
    drawn = np.sort(random.select(len(index), count, seed=seed).indices)
    wanted = index.take(pa.array(drawn))
    tables = []
    for shard in dict.fromkeys(wanted["shard"].to_pylist()):
        table = (prepared / "pool").read_table(f"{shard}.parquet", ["id", "input_ids", "labels"])
        tables.append(table.filter(pc.is_in(table["id"], wanted["id"].combine_chunks())))
    out.write_table(TRAINING_SET, pa.concat_tables(tables))
