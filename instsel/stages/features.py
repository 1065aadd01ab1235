"""Stage *features*: a sketch of every example's gradient at every warmup checkpoint, by actors with one model each.

An item of work is a shard at a checkpoint. Its rows are read by a task ahead of the actor; the actor commits the
feature shard itself and hands back counts, so no gradient travels through Ray's object store.
"""

from pathlib import Path
from typing import Any

import torch

from instsel.config import Features, Model, StudyConfig
from instsel.data.batches import Example
from instsel.gradients.engine import GradientEngine
from instsel.gradients.sketch import CountSketch
from instsel.gradients.store import feature_table, normalise
from instsel.model import attach_adapter, load_base, model_device
from instsel.progress import Terminal
from instsel.stages.actors import through_actors
from instsel.stages.memory import peak_memory
from instsel.stages.session import Allotment
from instsel.storage import Folder
from instsel.study import Stage
from instsel.training.checkpoint import load_adapter, read_checkpoint

SET_ASIDE = ".set_aside.json"


def run(study: StudyConfig, stage: Stage, prepare: Stage, warmup: Stage, allot: Allotment, terminal: Terminal) -> None:
    """Write the feature shards that are missing, then the manifest."""
    stage.begin()
    checkpoints = warmup.manifest()["result"]["checkpoints"]
    work = [item for name in checkpoints for item in _items(name, prepare)]
    missing = [item for item in work if not stage.folder.exists(item["output"])]
    if len(missing) < len(work):
        terminal.say(f"{len(work) - len(missing)} of {len(work)} shards were there already")
    tokens, memory = _extract(study, stage, prepare.folder, warmup, missing, allot, terminal) if missing else (0, 0)
    aside = _set_aside(stage.folder)
    if aside:
        terminal.say(f"set aside {len(aside)} rows with a zero or non-finite gradient")
    result = {"checkpoints": checkpoints, "dim": study.features.dim, "set_aside": aside}
    stage.commit(result, tokens=tokens, peak_memory=memory)


def _items(checkpoint: str, prepare: Stage) -> list[dict[str, str]]:
    result = prepare.manifest()["result"]
    items = [("validation", f"targets/{name}/validation.parquet", name) for name in result["targets"]]
    items += [("pool", f"pool/{shard}.parquet", shard) for shard in result["pool"]["shards"]]
    return [
        {"checkpoint": checkpoint, "kind": kind, "rows": rows, "output": f"{checkpoint}/{kind}/{name}.arrow"}
        for kind, rows, name in items
    ]


def _extract(
    study: StudyConfig,
    stage: Stage,
    rows: Folder,
    warmup: Stage,
    missing: list[dict[str, str]],
    allot: Allotment,
    terminal: Terminal,
) -> tuple[int, int]:
    result = warmup.manifest()["result"]
    pins = {"stage": stage.fingerprint, "dim": study.features.dim, "sketch_seed": study.features.seed}
    checkpoints = {name: warmup.folder / result["run"] / name for name in result["checkpoints"]}
    arguments = (study.model, study.features, checkpoints, stage.folder, pins)
    tokens = memory = 0
    with terminal.bar("features", len(missing), "shards") as bar:
        for row in through_actors(missing, rows, _Extractor, arguments, allot):
            tokens += row["tokens"]
            memory = max(memory, row["peak_memory"])
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
        pins: dict[str, Any],
    ) -> None:
        torch.set_num_threads(threads)
        self.base = load_base(model).to(model_device())
        self.model: Any = None
        self.features, self.checkpoints, self.out, self.pins = features, checkpoints, out, pins
        self.sketch = CountSketch(features.dim, features.seed)
        self.checkpoint: str | None = None
        self.moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.state: dict[str, Any] = {}

    def __call__(self, item: dict[str, str], ids: list[str], examples: list[Example]) -> dict[str, int]:
        self._load(item["checkpoint"])
        unit, kept, reasons = normalise(self._engine(item["kind"]).features(examples))
        folder, _, name = item["output"].rpartition("/")
        without = [row for row, keep in zip(ids, kept, strict=True) if not keep]
        if without:
            aside = [{"id": row, "reason": reason} for row, reason in zip(without, reasons, strict=True)]
            (self.out / folder).write_json(f"{name.removesuffix('.arrow')}{SET_ASIDE}", aside)
        kept_ids = [row for row, keep in zip(ids, kept, strict=True) if keep]
        (self.out / folder).write_table(name, feature_table(kept_ids, unit, {**self.pins, "kind": item["kind"]}))
        return {"tokens": sum(len(example["input_ids"]) for example in examples), "peak_memory": peak_memory()}

    def _engine(self, kind: str) -> GradientEngine:
        """Adam directions for pool rows, plain gradients for validation rows (LESS, Definition 3.1)."""
        if kind == "validation":
            return GradientEngine(self.model, sketch=self.sketch, token_budget=self.features.token_budget)
        return GradientEngine(
            self.model,
            sketch=self.sketch,
            moments=self.moments,
            token_budget=self.features.token_budget,
            betas=tuple(self.state["betas"]),
            eps=self.state["eps"],
        )

    def _load(self, checkpoint: str) -> None:
        if checkpoint == self.checkpoint:
            return
        folder: Path = self.checkpoints[checkpoint].fetch()
        if self.model is None:
            self.model = attach_adapter(self.base, folder).to(model_device())
        else:
            load_adapter(folder, self.model)
        self.moments, self.state = read_checkpoint(folder, self.model)
        self.checkpoint = checkpoint


def _set_aside(folder: Folder) -> dict[str, str]:
    """Rows that have no feature at some checkpoint: id -> reason."""
    found: dict[str, str] = {}
    for checkpoint in folder.names():
        for kind in ("pool", "validation"):
            place = folder / checkpoint / kind
            for name in place.names():
                if name.endswith(SET_ASIDE):
                    found |= {item["id"]: f"{item['reason']} at {checkpoint}" for item in place.read_json(name)}
    return found
