"""Stage *attribution*: features become the n x m matrix of influences, a block of pool rows at a time."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load, save

from instsel.arrays import unit_rows
from instsel.attribution.scores import precondition, score_block
from instsel.attribution.timing import time_attribution
from instsel.choice.influence import mean_gradients
from instsel.config.study import StudyConfig
from instsel.gradients.features import GradientShards, Storage, bytes_per_row, validation_columns
from instsel.io.store import Folder
from instsel.io.whole import whole_names
from instsel.pipeline.fisher import count_fisher_tasks, fisher_disk, fisher_matrices, fisher_memory, fisher_seconds
from instsel.selection.base import AttributionSpec
from instsel.study.attribution_specs import attribution_specs, contrast_stages
from instsel.study.estimates import FLOAT32, ID_BYTES, MIB
from instsel.study.provenance import Provenance, contrast_provenance, feature_provenance, settle_provenance
from instsel.study.results import AttributionResult, FeaturesResult, PrepareResult, WarmupResult
from instsel.study.stage import Cost, Finished, PlanContext, RunContext, Settings, Stage, StageEstimate, StageKey

if TYPE_CHECKING:
    from instsel.runtime.attempts import AttemptLimiter


COLUMNS = "columns.parquet"
DIRECTIONS = "directions.safetensors"
BLOCK_FILE_BYTES = 800  # schema and footer of an Arrow file of scores


class Attribution(Stage[AttributionResult]):
    """Write one block of scores a shard, and what each column is."""

    name = "attribution"
    position = 80

    def keys(self, config: StudyConfig) -> list[str]:
        return list(attribution_specs(config))

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        return [StageKey("features"), *contrast_stages(attribution_specs(config)[key])]

    def settings(self, config: StudyConfig, key: str) -> Settings:
        return asdict(attribution_specs(config)[key])

    def run_key(self, context: RunContext, key: str) -> Finished[AttributionResult]:
        import ray.data

        from instsel.runtime.actors import watch
        from instsel.runtime.attempts import AttemptLimiter
        from instsel.runtime.process_cache import new_key

        stage, features = context.stage(self.name, key), context.stage("features")
        # As the warmup is now: what the features say of themselves may be of one that was done again since.
        provenance = feature_provenance(context)
        settle_provenance(stage, provenance, context.console)
        checkpoints = context.stage("warmup").result(WarmupResult).checkpoints
        weights = [checkpoints[name].learning_rate for name in provenance]
        shards = context.stage("prepare").result(PrepareResult).pool.shards
        if not stage.folder.exists(DIRECTIONS):
            _write_directions(context, attribution_specs(context.config)[key], provenance, stage.folder)
        columns = stage.folder.read_table(COLUMNS)
        blocks = stage.folder / "blocks"
        complete = whole_names(blocks)
        missing = [shard for shard in shards if f"{shard}.arrow" not in complete]
        scoring: Any = _score
        dataset = ray.data.from_items([{"shard": shard} for shard in missing])
        memory = 0
        with AttemptLimiter() as attempts, context.console.bar(stage.name, len(missing), "shards") as bar:
            watch(dataset, f"{stage.name}: a task of 0.5 CPU", context.resources, attempts)
            scored = dataset.map_batches(
                scoring,
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=0.5,
                compute=ray.data.TaskPoolStrategy(_count_scorers(len(missing))),
                fn_args=(new_key(), _Scoring(attempts, features.folder, provenance, weights, stage.folder)),
            )
            for row in scored.iter_rows() if missing else ():
                bar.advance(1)
                memory = max(memory, row["peak_memory"])
        rows = sum(len(blocks.read_table(f"{shard}.arrow", ["id"])) for shard in shards)
        context.console.say(
            f"{key}: {rows} pool rows x {len(columns)} validation columns, {len(provenance)} checkpoints"
        )
        result = AttributionResult(rows=rows, columns=len(columns), weights=weights, shards=shards)
        return Finished(result, Cost(peak_memory=memory))

    def estimate(self, context: PlanContext, keys: Sequence[str]) -> StageEstimate:
        """Return what the keys take, timed on random numbers; those with damping each sum the Fisher matrices."""
        config, counts = context.config, context.counts
        dim, shards, work = config.features.dim, counts.shards, config.warmup.epochs * counts.rows
        specs = [attribution_specs(config)[key] for key in keys]
        columns = [counts.columns(spec) for spec in specs]
        timed = context.profiler.run(time_attribution, sorted(set(columns)), dim)
        seconds = sum(timed.throughput(1 / timed.value.score[count]).seconds(work, shards) or 0.0 for count in columns)
        disk = sum(counts.rows * (ID_BYTES + count * FLOAT32) + shards * BLOCK_FILE_BYTES for count in columns)
        largest = max(part.rows_per_shard for part in counts.pool)
        shape = (config.warmup.epochs, largest, max(columns), dim)
        # Memory of a process, and how many there are on a machine.
        processes = [(timed.memory + scoring_memory(shape, config.features.storage), min(timed.together, shards))]
        damped = sum(spec.damping is not None for spec in specs)
        if damped:
            seconds += damped * fisher_seconds(config, counts, timed, max(columns))
            disk += fisher_disk(dim, shards)
            summing, solving = fisher_memory(dim)
            summers = min(timed.together, count_fisher_tasks(dim, shards))
            processes += [(timed.memory + summing, summers), (timed.memory + solving, 1)]
        memory, together = max(processes, key=lambda needed: needed[0] * needed[1])
        return StageEstimate(
            self.name,
            rows=len(keys) * work,
            seconds=seconds,
            memory=memory,
            together=together,
            disk=disk,
            memory_advice="lower features.dim or targets.NAME.max_validation",
            disk_advice="lower targets.NAME.max_validation or, with fisher, features.dim",
        )


def scoring_memory(shape: tuple[int, int, int, int], storage: Storage) -> int:
    """Return the memory of a process that scores shards, beside the libraries.

    It holds the directions of every checkpoint, one of them scaled and transposed, the shard's features, its scores,
    and blocks of the pool at work.

    Args:
        shape: checkpoints, rows of a shard, columns, and entries of a feature.
        storage: how features are kept.
    """
    checkpoints, rows, columns, dim = shape
    directions = (checkpoints + 1) * columns * dim * FLOAT32
    shard = checkpoints * rows * bytes_per_row(dim, storage) + rows * columns * FLOAT32
    return directions + shard + 3 * min(32 * MIB, rows * dim * FLOAT32)


def _write_directions(context: RunContext, spec: AttributionSpec, provenance: Provenance, out: Folder) -> None:
    """Write the columns, and what the pool is multiplied with: a vector a column and checkpoint."""
    config, features, prepare = context.config, context.stage("features"), context.stage("prepare")
    subtasks = {name: target.subtask for name, target in config.targets.items()}
    is_contrast = spec.form == "contrast"
    source = context.stage("contrast") if is_contrast else features
    columns = validation_columns(prepare.folder, subtasks, source.result(FeaturesResult).rejected)
    taken = contrast_provenance(context) if is_contrast else provenance
    gradients = GradientShards(source.folder, taken).validation(columns)
    if spec.average == "gradients":
        gradients, columns = mean_gradients(gradients, columns)
    out.write_table(COLUMNS, columns)
    directions = [unit_rows(rows, f"validation, {name}") for name, rows in zip(provenance, gradients, strict=True)]
    if spec.damping is not None:
        shards = prepare.result(PrepareResult).pool.shards
        dim = config.features.dim
        fisher = fisher_matrices(features.folder, provenance, dim, shards, out / "moments", context.console)
        directions = [precondition(v, next(fisher), spec.damping) for v in directions]
    # safetensors writes an array's memory as it lies there, whatever its strides say.
    contiguous = {name: np.ascontiguousarray(rows) for name, rows in zip(provenance, directions, strict=True)}
    out.write(DIRECTIONS, save(contiguous))
    (out / "moments").remove()


def _count_scorers(shards: int) -> int:
    import ray

    return max(1, min(shards, int(ray.cluster_resources().get("CPU", 1))))


def _score(batch: pa.Table, key: str, work: "_Scoring") -> pa.Table:
    from instsel.runtime.process_cache import kept_in_process

    with kept_in_process(key, lambda: _Scorer(work)) as scorer:
        return scorer(batch)


@dataclass(frozen=True)
class _Scoring:
    """What scoring tasks are given: features, the weights of their checkpoints, and where scores go."""

    attempts: "AttemptLimiter"
    features: Folder
    provenance: Provenance
    weights: list[float]
    out: Folder


class _Scorer:
    """Holds the directions of every checkpoint; scores shards of the pool against them."""

    def __init__(self, work: _Scoring) -> None:
        self.work = work
        self.gradients = GradientShards(work.features, work.provenance)
        directions = load(work.out.read(DIRECTIONS))
        self.directions = [directions[checkpoint] for checkpoint in work.provenance]

    def __call__(self, batch: pa.Table) -> pa.Table:
        from instsel.runtime.session import peak_memory

        for shard in batch["shard"].to_pylist():
            self._shard(shard)
        return pa.table({"peak_memory": [peak_memory()]})

    def _shard(self, shard: str) -> None:
        ids, blocks = self.gradients.pool(shard)
        self.work.attempts.start(self.work.out, shard, len(ids), shard)
        scores = score_block(blocks, self.directions, self.work.weights)
        column = pa.FixedSizeListArray.from_arrays(pa.array(scores.reshape(-1)), scores.shape[1])
        table = pa.table({"id": pa.array(ids, pa.string()), "scores": column})
        (self.work.out / "blocks").write_table(f"{shard}.arrow", table)
