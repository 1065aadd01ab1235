"""Stage *evaluate*: held-out loss of the base model and of every trained adapter on every target."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from instsel.config.study import Model, StudyConfig
from instsel.console import Terminal
from instsel.data.batching import BatchFitter, Example
from instsel.evaluation.scoring import heldout_losses
from instsel.io.store import Folder
from instsel.models.loading import attach_adapter, load_on_devices
from instsel.runtime.actors import ActorPool
from instsel.runtime.errors import Shortage
from instsel.runtime.session import ResourcePlan, peak_memory
from instsel.study.folder import StageFolder
from instsel.training.checkpoint import load_adapter


@dataclass(frozen=True)
class Spent:
    """What the evaluation of one run took: seconds, tokens, and the highest memory of an actor in bytes."""

    seconds: float = 0.0
    tokens: int = 0
    peak_memory: int = 0

    def plus(self, row: dict[str, Any]) -> "Spent":
        """With what an actor says of one more set."""
        return Spent(
            self.seconds + row["seconds"],
            self.tokens + row["tokens"],
            max(self.peak_memory, row["peak_memory"]),
        )


def run(
    study: StudyConfig,
    stages: dict[str, StageFolder],
    finetuned: dict[str, StageFolder],
    prepare: StageFolder,
    resources: ResourcePlan,
    terminal: Terminal,
) -> None:
    """Evaluate every model whose stage is not done; `stages` has one for "base" and one for each trained run.

    All models go through one pool of actors, so the base model is loaded once an actor.
    """
    open_stages = {name: stage for name, stage in stages.items() if not stage.done()}
    for stage in open_stages.values():
        stage.start()
    tables = heldout_tables(prepare)
    items = [
        {"run": name, "target": target, "rows": rows}
        for name, stage in open_stages.items()
        for target, rows in tables.items()
        if not stage.folder.exists(f"{target}.parquet")
    ]
    trained = {name: made for name, made in finetuned.items() if name in open_stages}
    adapters = {name: adapter_of(made.folder, made.manifest()["result"]) for name, made in trained.items()}
    places = {name: (adapters.get(name), stage.folder) for name, stage in open_stages.items()}
    spent = evaluate_sets(study, items, places, prepare.folder, resources, terminal)
    for name, stage in open_stages.items():
        losses = {target: mean_loss(stage.folder, target) for target in tables}
        cost = spent.get(name, Spent())
        stage.commit({"losses": losses}, tokens=cost.tokens, peak_memory=cost.peak_memory, seconds=cost.seconds)


def heldout_tables(prepare: StageFolder) -> dict[str, str]:
    """Target -> table of its held-out rows below *prepare*; targets without any are left out."""
    targets = prepare.manifest()["result"]["targets"]
    return {name: f"targets/{name}/heldout.parquet" for name, counts in targets.items() if "heldout" in counts}


def mean_loss(folder: Folder, target: str) -> float:
    """Mean over a target's held-out examples of their mean answer-token cross-entropy, nats."""
    losses = folder.read_table(f"{target}.parquet", ["loss"])["loss"].to_numpy()
    return float(losses.mean())


def adapter_of(folder: Folder, result: Mapping[str, Any]) -> Folder:
    """The checkpoint of the last epoch of a training run in a stage's folder, by the stage's result."""
    epochs = {metrics["epoch"]: name for name, metrics in result["checkpoints"].items()}
    return folder / result["run"] / epochs[max(epochs)]


def evaluate_sets(
    study: StudyConfig,
    items: list[dict[str, str]],
    places: Mapping[str, tuple[Folder | None, Folder]],
    rows: Folder,
    resources: ResourcePlan,
    terminal: Terminal,
    stages: Mapping[str, Folder] | None = None,
) -> dict[str, Spent]:
    """Write the losses of models on sets of rows.

    Args:
        study: model and settings of evaluation.
        items: what to evaluate: name of the run, name of the target, and its table of rows.
        places: run -> its adapter, None for the base model, and the folder for TARGET.parquet (id, loss).
        rows: folder of the tables.
        resources: how many actors there are and what each holds.
        terminal: where progress is shown.
        stages: run -> folder of its stage; by default that of its losses.

    Returns:
        What each run took; the wall-clock time of all is shared out by the time that actors spent on each.
    """
    spent: dict[str, Spent] = {}
    folders = stages or {run: folder for run, (_, folder) in places.items()}
    shortage = Shortage("evaluation.token_budget", study.evaluation.token_budget, terminal)
    started = time.monotonic()
    with terminal.bar("evaluate", len(items), "sets") as bar:
        arguments = (study.model, places, study.evaluation.token_budget)
        pool = ActorPool("evaluate", items, rows, _Evaluator, arguments, lambda item: folders[item["run"]])
        for row in pool.run(resources):
            spent[row["run"]] = spent.get(row["run"], Spent()).plus(row)
            shortage.look(row["token_budget"])
            bar.advance(1, row["tokens"])
    share = (time.monotonic() - started) / max(sum(cost.seconds for cost in spent.values()), 1e-9)
    return {run: replace(cost, seconds=cost.seconds * share) for run, cost in spent.items()}


class _Evaluator:
    """Holds the base model and puts on it the adapter of the run at hand."""

    def __init__(
        self, threads: int, model: Model, places: Mapping[str, tuple[Folder | None, Folder]], token_budget: int
    ) -> None:
        torch.set_num_threads(threads)
        self.base = load_on_devices(model)
        self.adapted: Any = None
        self.loaded: str | None = None
        self.places, self.fitter = places, BatchFitter.forward(token_budget)

    def __call__(self, item: dict[str, str], ids: list[str], examples: list[Example]) -> dict[str, Any]:
        started = time.monotonic()
        adapter, out = self.places[item["run"]]
        losses = self._losses(item["run"], adapter, examples)
        out.write_table(f"{item['target']}.parquet", pa.table({"id": ids, "loss": losses}))
        tokens = sum(len(example["input_ids"]) for example in examples)
        seconds = time.monotonic() - started
        told = {"run": item["run"], "seconds": seconds, "tokens": tokens, "peak_memory": peak_memory()}
        return {**told, "token_budget": self.fitter.token_budget}

    def _losses(self, run: str, adapter: Folder | None, examples: list[Example]) -> np.ndarray:
        if adapter is not None:
            self._load(run, adapter)
            return heldout_losses(self.adapted, examples, fitter=self.fitter)
        if self.adapted is None:
            return heldout_losses(self.base, examples, fitter=self.fitter)
        with self.adapted.disable_adapter():
            return heldout_losses(self.adapted, examples, fitter=self.fitter)

    def _load(self, run: str, adapter: Folder) -> None:
        if run == self.loaded:
            return
        with adapter.local() as folder:
            if self.adapted is None:
                self.adapted = attach_adapter(self.base, folder)
            else:
                load_adapter(folder, self.adapted)
        self.loaded = run
