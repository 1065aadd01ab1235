"""Stage *features*: a sketch of every example's gradient at every warmup checkpoint, by actors with one model each.

An item of work is a shard at a checkpoint. Its rows are read by a task ahead of the actor; the actor commits the
feature shard itself and hands back counts, so no gradient travels through Ray's object store.
"""

from typing import Any

import torch

from instsel.config.study import Features, Model, StudyConfig
from instsel.console import Terminal
from instsel.data.batching import Example
from instsel.gradients.engine import GradientEngine
from instsel.gradients.features import feature_table, normalise
from instsel.gradients.sketch import CountSketch
from instsel.io.store import Folder
from instsel.models.loading import attach_adapter, load_on_devices
from instsel.runtime.actors import ActorPool
from instsel.runtime.errors import Shortage
from instsel.runtime.session import ResourcePlan, peak_memory
from instsel.study.folder import StageFolder
from instsel.study.provenance import Provenance, feature_provenance, settle_provenance
from instsel.training.checkpoint import load_adapter, read_checkpoint

REJECTED_SUFFIX = ".rejected.json"


def run(
    study: StudyConfig,
    stage: StageFolder,
    prepare: StageFolder,
    warmup: StageFolder,
    resources: ResourcePlan,
    terminal: Terminal,
) -> None:
    """Write the feature shards that are missing, then the manifest, which has the pins of every checkpoint."""
    stage.start()
    provenance = feature_provenance(study, stage, prepare, warmup)
    settle_provenance(stage, provenance, terminal)
    checkpoints = warmup.manifest()["result"]["checkpoints"]
    work = [item for name in checkpoints for item in _items(name, prepare)]
    missing = missing_items(work, stage.folder)
    if len(missing) < len(work):
        terminal.say(f"{len(work) - len(missing)} of {len(work)} shards were there already")
    tokens, memory = extract_features(
        study, stage.folder, provenance, prepare.folder, warmup, missing, resources, terminal
    )
    # A worker that was killed may have left half a file.
    stage.folder.clean()
    aside = _rejected_rows(stage.folder)
    if aside:
        terminal.say(f"set aside {len(aside)} rows with a zero or non-finite gradient")
    result = {"checkpoints": checkpoints, "provenance": provenance, "rejected": aside}
    stage.commit(result, tokens=tokens, peak_memory=memory)


def _items(checkpoint: str, prepare: StageFolder) -> list[dict[str, str]]:
    result = prepare.manifest()["result"]
    items = [("validation", f"targets/{name}/validation.parquet", name) for name in result["targets"]]
    items += [("pool", f"pool/{shard}.parquet", shard) for shard in result["pool"]["shards"]]
    return [{"checkpoint": checkpoint, "kind": kind, "rows": rows, "name": name} for kind, rows, name in items]


def missing_items(work: list[dict[str, str]], folder: Folder) -> list[dict[str, str]]:
    """Of shards to make, by checkpoint, kind and name, those that are not in the folder."""
    places = {(item["checkpoint"], item["kind"]) for item in work}
    there = {place: set((folder / place[0] / place[1]).names()) for place in places}
    return [item for item in work if f"{item['name']}.arrow" not in there[item["checkpoint"], item["kind"]]]


def extract_features(
    study: StudyConfig,
    out: Folder,
    provenance: Provenance,
    rows: Folder,
    warmup: StageFolder,
    missing: list[dict[str, str]],
    resources: ResourcePlan,
    terminal: Terminal,
) -> tuple[int, int]:
    """Make shards of features; return the tokens that took and the highest memory of an actor in bytes.

    Args:
        study: model and settings of features.
        out: folder for CHECKPOINT/KIND/NAME.arrow.
        provenance: what the shards depend on.
        rows: folder of the tables that items name as `rows`.
        warmup: stage with the checkpoints.
        missing: what to make: checkpoint, kind (pool or validation), rows and name.
        resources: how many actors there are and what each holds.
        terminal: where progress is shown.
    """
    result = warmup.manifest()["result"]
    checkpoints = {name: warmup.folder / result["run"] / name for name in result["checkpoints"]}
    arguments = (study.model, study.features, checkpoints, out, provenance)
    tokens = memory = 0
    shortage = Shortage("features.token_budget", study.features.token_budget, terminal)
    with terminal.bar("features", len(missing), "shards") as bar:
        pool = ActorPool("features", missing, rows, _Extractor, arguments, lambda item: out)
        for row in pool.run(resources):
            tokens += row["tokens"]
            memory = max(memory, row["peak_memory"])
            shortage.look(row["token_budget"], row["recompute"])
            bar.advance(1, row["tokens"])
    return tokens, memory


class _Extractor:
    """Holds the base model; adapter and Adam moments are exchanged when the checkpoint changes."""

    def __init__(
        self,
        threads: int,
        model: Model,
        features: Features,
        checkpoints: dict[str, Folder],
        out: Folder,
        provenance: Provenance,
    ) -> None:
        torch.set_num_threads(threads)
        self.base = load_on_devices(model)
        self.model: Any = None
        self.checkpoints, self.out, self.provenance = checkpoints, out, provenance
        self.storage, self.token_budget, self.recompute = features.storage, features.token_budget, False
        self.sketch = CountSketch(features.dim, features.seed)
        self.checkpoint: str | None = None
        self.moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.state: dict[str, Any] = {}

    def __call__(self, item: dict[str, str], ids: list[str], examples: list[Example]) -> dict[str, Any]:
        self._load(item["checkpoint"])
        engine = self._engine(item["kind"])
        unit, norms, kept, reasons = normalise(engine.features(examples))
        # Other than before if the engine ran out of memory: the next shards are spared that.
        self.token_budget, self.recompute = engine.token_budget, engine.recompute
        folder = self.out / item["checkpoint"] / item["kind"]
        without = [row for row, keep in zip(ids, kept, strict=True) if not keep]
        if without:
            aside = [{"id": row, "reason": reason} for row, reason in zip(without, reasons, strict=True)]
            folder.write_json(f"{item['name']}{REJECTED_SUFFIX}", aside)
        kept_ids = [row for row, keep in zip(ids, kept, strict=True) if keep]
        provenance = self.provenance[item["checkpoint"]][item["kind"]]
        folder.write_table(f"{item['name']}.arrow", feature_table(kept_ids, unit, norms, provenance, self.storage))
        tokens = sum(len(example["input_ids"]) for example in examples)
        return {
            "tokens": tokens,
            "peak_memory": peak_memory(),
            "token_budget": self.token_budget,
            "recompute": self.recompute,
            "rejected": len(without),
        }

    def _engine(self, kind: str) -> GradientEngine:
        """Adam directions for pool rows, plain gradients for validation rows (LESS, Definition 3.1)."""
        adam = {"moments": self.moments, "betas": tuple(self.state["betas"]), "eps": self.state["eps"]}
        return GradientEngine(
            self.model,
            sketch=self.sketch,
            token_budget=self.token_budget,
            recompute=self.recompute,
            **(adam if kind == "pool" else {}),
        )

    def _load(self, checkpoint: str) -> None:
        if checkpoint == self.checkpoint:
            return
        with self.checkpoints[checkpoint].local() as folder:
            if self.model is None:
                self.model = attach_adapter(self.base, folder)
            else:
                load_adapter(folder, self.model)
            self.moments, self.state = read_checkpoint(folder, self.model)
        self.checkpoint = checkpoint


def _rejected_rows(folder: Folder) -> dict[str, str]:
    """Rows that have no feature at some checkpoint: id -> reason."""
    found: dict[str, str] = {}
    for checkpoint in folder.names():
        for kind in ("pool", "validation"):
            place = folder / checkpoint / kind
            for name in place.names():
                if name.endswith(REJECTED_SUFFIX):
                    found |= {item["id"]: f"{item['reason']} at {checkpoint}" for item in place.read_json(name)}
    return found
