"""Stage *features*: a sketch of every example's gradient at every warmup checkpoint, by actors with one model each.

An item of work is a table of rows at a checkpoint. Its rows are read by a task ahead of the actor; the actor commits
the table of features itself and returns counts, so no gradient travels through Ray's object store.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from instsel.config.study import Features as FeatureSettings
from instsel.config.study import Model, StudyConfig
from instsel.gradients.features import bytes_per_row
from instsel.io.store import Folder
from instsel.io.whole import whole_names
from instsel.pipeline.extraction import REJECTED_SUFFIX, Item, pool_items, validation_items
from instsel.pipeline.probes import actor_dependencies
from instsel.study import dependencies
from instsel.study.estimates import CHECKPOINT, EXAMPLE, ID_BYTES, ActorSpec, BatchProbe, ItemResult, batch_estimate
from instsel.study.provenance import Provenance, feature_provenance, settle_provenance
from instsel.study.results import FeaturesResult, PrepareResult, WarmupResult
from instsel.study.stage import Cost, Finished, PlanContext, RunContext, Settings, Stage, StageEstimate, StageKey

if TYPE_CHECKING:
    from instsel.data.batching import Example
    from instsel.gradients.engine import GradientEngine
    from instsel.training.checkpoint import CheckpointState

NORMALISE_BYTES = 20  # of an entry while a shard is normalised: float32 three times, float64 once
FEATURE_FILE_BYTES = 2400  # schema, provenance and footer of an Arrow file


class Features(Stage[FeaturesResult]):
    """Take the gradients of pool and validation rows."""

    name = "features"
    position = 70

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        return [StageKey("warmup")]

    def settings(self, config: StudyConfig, key: str) -> Settings:
        settings: Settings = config.features.model_dump(mode="json")
        return settings

    def run_key(self, context: RunContext, key: str) -> Finished[FeaturesResult]:
        """Write the feature shards that are missing; the result has what those of every checkpoint depend on."""
        stage, prepare = context.stage(self.name), context.stage("prepare")
        provenance = feature_provenance(context)
        settle_provenance(stage, provenance, context.console)
        prepared = prepare.result(PrepareResult)
        tables = [*validation_items(prepared), *pool_items(prepared)]
        items = [{**item, "checkpoint": checkpoint} for checkpoint in provenance for item in tables]
        missing = missing_items(items, stage.folder)
        if len(missing) < len(items):
            context.console.say(f"{len(items) - len(missing)} of {len(items)} shards were there already")
        cost = extract_features(context, stage.folder, provenance, prepare.folder, missing)
        # A worker that was killed may have left half a file.
        stage.folder.clean()
        rejected = rejected_rows(stage.folder)
        if rejected:
            context.console.say(f"rejected {len(rejected)} rows with a zero or non-finite gradient")
        checkpoints = context.stage("warmup").result(WarmupResult).checkpoints
        return Finished(FeaturesResult(checkpoints=checkpoints, provenance=provenance, rejected=rejected), cost)

    def estimate(self, context: PlanContext, keys: Sequence[str]) -> StageEstimate:
        config, counts = context.config, context.counts
        sets, checkpoints = [*counts.pool, *counts.validation], config.warmup.epochs
        rows, shards = sum(part.rows for part in sets), sum(part.shards for part in sets)
        rate = context.profiler.batches(features_probe(config))
        estimate = batch_estimate(self.name, sets, config.features.token_budget, rate, checkpoints)
        largest = max(part.rows_per_shard for part in sets)
        halve = ", or set features.storage: int8" if config.features.storage == "float16" else ""
        return replace(
            estimate,
            disk=checkpoints * feature_bytes(config.features, rows, shards),
            memory=rate.memory + largest * config.features.dim * NORMALISE_BYTES,
            memory_advice="lower features.token_budget or resources.actors",
            disk_advice=f"lower features.dim{halve}",
        )


def feature_bytes(features: FeatureSettings, rows: int, shards: int) -> int:
    """Return the disk that a checkpoint's features take: 270,679 rows of 8192 float16 are 4.4 GB."""
    return rows * (bytes_per_row(features.dim, features.storage) + ID_BYTES) + shards * FEATURE_FILE_BYTES


def features_probe(config: StudyConfig) -> BatchProbe:
    """Return the batches that the taking of gradients is timed on, at a checkpoint with fresh LoRA matrices."""
    item = {"checkpoint": CHECKPOINT, "kind": "pool", "name": "probe"}
    return BatchProbe(
        Features.name, partial(_rate_dependencies, config), partial(_probed, config), item, needs_checkpoint=True
    )


def _rate_dependencies(config: StudyConfig) -> Settings:
    model, lora = actor_dependencies(config, config.features.token_budget), dependencies.adapter_settings(config)
    return {**model, **lora, "dim": config.features.dim}


def _probed(config: StudyConfig, out: Folder) -> ActorSpec:
    return _actors(config, {CHECKPOINT: out / CHECKPOINT}, out, {CHECKPOINT: {"pool": {}}})


def _actors(
    config: StudyConfig,
    checkpoints: dict[str, Folder],
    out: Folder,
    provenance: Provenance,
    taker: "type[GradientTaker] | None" = None,
) -> ActorSpec:
    """Return the actors that take gradients at checkpoints and write them below `out`."""
    arguments = (config.model, config.features, checkpoints, out, provenance)
    actor = taker or GradientTaker
    return ActorSpec(actor, arguments, "features.token_budget", config.features.token_budget, actor.columns)


def missing_items(items: list[Item], folder: Folder) -> list[Item]:
    """Return the items, by checkpoint, kind and name, whose shards are not in the folder."""
    parts = {(item["checkpoint"], item["kind"]) for item in items}
    complete = {part: whole_names(folder / part[0] / part[1]) for part in parts}
    return [item for item in items if f"{item['name']}.arrow" not in complete[item["checkpoint"], item["kind"]]]


def extract_features(
    context: RunContext,
    out: Folder,
    provenance: Provenance,
    rows: Folder,
    missing: list[Item],
    taker: "type[GradientTaker] | None" = None,
) -> Cost:
    """Make shards of features.

    Args:
        context: model and settings of features, and actors.
        out: folder for CHECKPOINT/KIND/NAME.arrow.
        provenance: what the shards depend on, by checkpoint.
        rows: folder of the tables that items name as `rows`.
        missing: what to make: checkpoint, kind (pool or validation), rows and name.
        taker: class of the actors, by default `GradientTaker`.

    Returns:
        Tokens, and the highest memory of an actor.
    """
    from instsel.runtime.actors import ActorPool
    from instsel.runtime.errors import Shortage

    config, warmup = context.config, context.stage("warmup")
    run = warmup.result(WarmupResult).run
    checkpoints = {name: warmup.folder / run / name for name in provenance}
    actors = _actors(config, checkpoints, out, provenance, taker)
    pool: ActorPool[GradientResult] = ActorPool(
        "features", missing, rows, actors.actor, actors.arguments, lambda item: out, actors.columns
    )
    tokens = memory = 0
    shortage = Shortage(actors.budget_key, actors.budget, context.console)
    with context.console.bar("features", len(missing), "shards") as bar:
        for row in pool.run(context.resources):
            tokens += row["tokens"]
            memory = max(memory, row["peak_memory"])
            shortage.look(row["token_budget"], row["recompute"])
            bar.advance(1, row["tokens"])
    return Cost(tokens=tokens, peak_memory=memory)


class GradientResult(ItemResult):
    """What an actor says of a shard: besides, how many rows are rejected, and whether it recomputes activations now."""

    recompute: bool
    rejected: int


class GradientTaker:
    """Holds the base model; adapter and Adam moments are exchanged when the checkpoint changes.

    Attributes:
        columns: of the rows that an example has, beside the id.
    """

    columns: ClassVar[Sequence[str]] = EXAMPLE

    def __init__(
        self,
        threads: int,
        model: Model,
        features: FeatureSettings,
        checkpoints: dict[str, Folder],
        out: Folder,
        provenance: Provenance,
    ) -> None:
        import torch

        from instsel.gradients.sketch import CountSketch
        from instsel.models.loading import load_on_devices

        torch.set_num_threads(threads)
        self.base = load_on_devices(model)
        self.model: Any = None
        self.checkpoints, self.out, self.provenance = checkpoints, out, provenance
        self.storage, self.token_budget, self.recompute = features.storage, features.token_budget, False
        self.sketch = CountSketch(features.dim, features.seed)
        self.checkpoint: str | None = None
        self.moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.state: CheckpointState | None = None

    def __call__(self, item: Item, ids: list[str], examples: "list[Example]") -> GradientResult:
        from instsel.runtime.session import peak_memory

        self._load(item["checkpoint"])
        engine = self._engine(item["kind"])
        ids, features, reasons = self.features(engine, ids, examples)
        # Other than before if the engine ran out of memory: the next shards are spared that.
        self.token_budget, self.recompute = engine.token_budget, engine.recompute
        rejected = self._write(item, ids, features, reasons)
        tokens = sum(len(example["input_ids"]) for example in examples)
        return {
            "tokens": tokens,
            "peak_memory": peak_memory(),
            "token_budget": self.token_budget,
            "recompute": self.recompute,
            "rejected": rejected,
        }

    def features(
        self, engine: "GradientEngine", ids: list[str], examples: "list[Example]"
    ) -> tuple[list[str], np.ndarray, dict[str, str]]:
        """Take the features of a table's rows.

        Returns:
            Ids and their features, float32 (n, d), not normalised; and rows that have none, id -> reason.
        """
        return ids, engine.features(examples), {}

    def _write(self, item: Item, ids: list[str], features: np.ndarray, without: dict[str, str]) -> int:
        """Commit a shard; the number of rows that are rejected."""
        from instsel.gradients.features import feature_table, normalise

        unit, norms, kept, reasons = normalise(features)
        folder = self.out / item["checkpoint"] / item["kind"]
        rows = [row for row, keep in zip(ids, kept, strict=True) if not keep]
        rejected = {**without, **dict(zip(rows, reasons, strict=True))}
        if rejected:
            lines = [{"id": row, "reason": reason} for row, reason in rejected.items()]
            folder.write_json(f"{item['name']}{REJECTED_SUFFIX}", lines)
        kept_ids = [row for row, keep in zip(ids, kept, strict=True) if keep]
        provenance = self.provenance[item["checkpoint"]][item["kind"]]
        folder.write_table(f"{item['name']}.arrow", feature_table(kept_ids, unit, norms, provenance, self.storage))
        return len(rejected)

    def _engine(self, kind: str) -> "GradientEngine":
        """Return an engine: Adam directions for pool rows, plain gradients for validation rows (LESS, 3.1)."""
        from instsel.gradients.engine import GradientEngine

        engine = partial(
            GradientEngine,
            self.model,
            sketch=self.sketch,
            token_budget=self.token_budget,
            recompute=self.recompute,
        )
        if kind != "pool":
            return engine()
        assert self.state is not None
        return engine(moments=self.moments, betas=self.state.betas, eps=self.state.eps)

    def _load(self, checkpoint: str) -> None:
        from instsel.models.loading import attach_adapter
        from instsel.training.checkpoint import load_adapter, read_checkpoint

        if checkpoint == self.checkpoint:
            return
        with self.checkpoints[checkpoint].local() as folder:
            if self.model is None:
                self.model = attach_adapter(self.base, folder)
            else:
                load_adapter(folder, self.model)
            self.moments, self.state = read_checkpoint(folder, self.model)
        self.checkpoint = checkpoint


def rejected_rows(folder: Folder) -> dict[str, str]:
    """Return the rows that have no feature at some checkpoint: id -> reason."""
    rejected: dict[str, str] = {}
    for checkpoint in folder.names():
        for kind in ("pool", "validation"):
            shards = folder / checkpoint / kind
            for name in shards.names():
                if name.endswith(REJECTED_SUFFIX):
                    rejected |= {row["id"]: f"{row['reason']} at {checkpoint}" for row in shards.read_json(name)}
    return rejected
