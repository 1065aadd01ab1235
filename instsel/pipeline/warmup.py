"""Stage *warmup*: LoRA training on a seeded share of the pool; gradients are later taken at its checkpoints."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.io.store import Folder
from instsel.runtime.session import ResourcePlan
from instsel.runtime.training import run_training
from instsel.runtime.training_run import TrainingRun, TrainingSession
from instsel.selection import random
from instsel.study.folder import StageFolder

TRAINING_SET = "training.arrow"


def run(
    study: StudyConfig, stage: StageFolder, prepare: StageFolder, resources: ResourcePlan, terminal: Terminal
) -> None:
    """Draw the rows, train on them, and name the checkpoints."""
    stage.start()
    pool = prepare.manifest()["result"]["pool"]
    rows = pool["rows"]
    count = max(1, round(study.warmup.share * rows))
    if not stage.folder.exists(TRAINING_SET):
        ray.get(_write_set.remote(prepare.folder, stage.folder, count, study.warmup.seed))
    terminal.say(f"{count} of {rows} rows, {study.warmup.epochs} epochs")
    tokens = study.warmup.epochs * count * pool["tokens"] / rows
    training = TrainingRun("warmup", stage, study.warmup, (stage.folder, TRAINING_SET), tokens)
    trained = run_training(TrainingSession(study, resources, terminal), training)
    stage.commit({"rows": count, **trained.result}, **trained.cost)


@ray.remote
def _write_set(prepared: Folder, out: Folder, count: int, seed: int) -> None:
    index = prepared.read_table("index.parquet", ["id", "shard"])
    drawn = np.sort(random.select(len(index), count, seed=seed).indices)
    wanted = index.take(pa.array(drawn))
    tables = []
    for shard in dict.fromkeys(wanted["shard"].to_pylist()):
        table = (prepared / "pool").read_table(f"{shard}.parquet", ["id", "input_ids", "labels"])
        tables.append(table.filter(pc.is_in(table["id"], wanted["id"].combine_chunks())))
    out.write_table(TRAINING_SET, pa.concat_tables(tables))
