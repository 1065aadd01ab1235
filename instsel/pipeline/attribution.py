"""Stage *attribution*: features become the n x m matrix of influences, a block of pool rows at a time."""

from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from safetensors.numpy import load, save

from instsel.arrays import unit_rows
from instsel.attribution.scores import precondition, score_block
from instsel.choice.influence import mean_gradients
from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.gradients.features import GradientShards, validation_columns
from instsel.io.store import Folder
from instsel.pipeline.fisher import fisher_matrices
from instsel.runtime.attempts import AttemptLimiter
from instsel.runtime.process_cache import kept_in_process, new_key
from instsel.runtime.session import peak_memory
from instsel.selection.methods import AttributionSpec
from instsel.study.folder import StageFolder
from instsel.study.provenance import Provenance, feature_provenance, settle_provenance

COLUMNS = "columns.parquet"
DIRECTIONS = "directions.safetensors"


def run(
    study: StudyConfig,
    stage: StageFolder,
    influence: AttributionSpec,
    prepare: StageFolder,
    warmup: StageFolder,
    features: StageFolder,
    terminal: Terminal,
) -> None:
    """Write one block of scores a shard, and what each column is."""
    stage.start()
    # Of the warmup as it is now: what the features say of themselves may be of one that was done again since.
    provenance = feature_provenance(study, features, prepare, warmup)
    settle_provenance(stage, provenance, terminal)
    rates = warmup.manifest()["result"]["checkpoints"]
    weights = [rates[name]["learning_rate"] for name in provenance]
    shards = prepare.manifest()["result"]["pool"]["shards"]
    if not stage.folder.exists(DIRECTIONS):
        _write_directions(study, stage.folder, influence, provenance, prepare.folder, features, shards, terminal)
    columns = stage.folder.read_table(COLUMNS)
    there = set((stage.folder / "blocks").names())
    missing = [shard for shard in shards if f"{shard}.arrow" not in there]
    scoring: Any = _score
    scored = ray.data.from_items([{"shard": shard} for shard in missing]).map_batches(
        scoring,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=0.5,
        compute=ray.data.TaskPoolStrategy(_scorers(len(missing))),
        fn_args=(new_key(), AttemptLimiter(), features.folder, provenance, weights, stage.folder),
    )
    memory = 0
    with terminal.bar(stage.name, len(missing), "shards") as bar:
        for row in scored.iter_rows() if missing else ():
            bar.advance(1)
            memory = max(memory, row["peak_memory"])
    rows = sum(len((stage.folder / "blocks").read_table(f"{shard}.arrow", ["id"])) for shard in shards)
    terminal.say(
        f"{influence.name}: {rows} pool rows x {len(columns)} validation columns, {len(provenance)} checkpoints"
    )
    stage.commit({"rows": rows, "columns": len(columns), "weights": weights, "shards": shards}, peak_memory=memory)


def _write_directions(
    study: StudyConfig,
    out: Folder,
    influence: AttributionSpec,
    provenance: Provenance,
    prepared: Folder,
    features: StageFolder,
    shards: list[str],
    terminal: Terminal,
) -> None:
    """Write the columns, and what the pool is multiplied with: a vector a column and checkpoint."""
    subtasks = {name: target.subtask for name, target in study.targets.items()}
    columns = validation_columns(prepared, subtasks, features.manifest()["result"]["rejected"])
    gradients = GradientShards(features.folder, provenance).validation(columns)
    if influence.average == "gradients":
        gradients, columns = mean_gradients(gradients, columns)
    out.write_table(COLUMNS, columns)
    directions = [unit_rows(rows, f"validation, {name}") for name, rows in zip(provenance, gradients, strict=True)]
    if influence.damping is not None:
        dim = study.features.dim
        fisher = fisher_matrices(features.folder, provenance, dim, shards, out / "moments", terminal)
        directions = [precondition(v, next(fisher), influence.damping) for v in directions]
    # safetensors writes an array's memory as it lies there, whatever its strides say.
    kept = {name: np.ascontiguousarray(rows) for name, rows in zip(provenance, directions, strict=True)}
    out.write(DIRECTIONS, save(kept))
    (out / "moments").remove()


def _scorers(shards: int) -> int:
    return max(1, min(shards, int(ray.cluster_resources().get("CPU", 1))))


def _score(
    batch: pa.Table,
    key: str,
    starts: AttemptLimiter,
    features: Folder,
    provenance: Provenance,
    weights: list[float],
    out: Folder,
) -> pa.Table:
    scorer = kept_in_process(key, lambda: _Scorer(starts, features, provenance, weights, out))
    return scorer(batch)


class _Scorer:
    """Holds the directions of every checkpoint; scores shards of the pool against them."""

    def __init__(
        self, starts: AttemptLimiter, features: Folder, provenance: Provenance, weights: list[float], out: Folder
    ) -> None:
        self.starts = starts
        self.gradients, self.weights, self.out = GradientShards(features, provenance), weights, out
        directions = load(out.read(DIRECTIONS))
        self.directions = [directions[checkpoint] for checkpoint in provenance]

    def __call__(self, batch: pa.Table) -> pa.Table:
        for shard in batch["shard"].to_pylist():
            self._shard(shard)
        return pa.table({"peak_memory": [peak_memory()]})

    def _shard(self, shard: str) -> None:
        ids, blocks = self.gradients.pool(shard)
        self.starts.start(self.out, shard, len(ids), shard)
        scores = score_block(blocks, self.directions, self.weights)
        column = pa.FixedSizeListArray.from_arrays(pa.array(scores.reshape(-1)), scores.shape[1])
        table = pa.table({"id": pa.array(ids, pa.string()), "scores": column})
        (self.out / "blocks").write_table(f"{shard}.arrow", table)
