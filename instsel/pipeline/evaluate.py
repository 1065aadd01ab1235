"""Stage *evaluate*: held-out loss of the base model and of every trained adapter on every target.

With `evaluation.form_and_content` also the losses of each held-out row's answers, without end marks.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from instsel.config.study import Model, StudyConfig
from instsel.errors import InputError
from instsel.evaluation.halves import searched_rows
from instsel.io.store import Folder
from instsel.pipeline.answers import HELDOUT, answers_of
from instsel.pipeline.extraction import Item
from instsel.pipeline.probes import actor_dependencies
from instsel.study import dependencies
from instsel.study.estimates import CHECKPOINT, ID_BYTES, ActorSpec, BatchProbe, ItemResult, batch_estimate
from instsel.study.gains import ANSWERS
from instsel.study.results import AnswersResult, EvaluateResult, PrepareResult, TrainingResult
from instsel.study.runs import BASE, runs_of
from instsel.study.stage import Cost, PlanContext, RunContext, Settings, Stage, StageEstimate, StageKey

if TYPE_CHECKING:
    from instsel.data.batching import Example

LOSS_BYTES = 8


class Evaluate(Stage[EvaluateResult]):
    """Take the losses of the base model and of each run; all go through one pool of actors."""

    name = "evaluate"
    position = 120
    per_trial = True
    is_goal = True

    def keys(self, config: StudyConfig) -> list[str]:
        return [BASE, *runs_of(config)]

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        trained = StageKey("prepare") if key == BASE else StageKey("finetune", key)
        return [trained, *([StageKey("answers", HELDOUT)] if config.evaluation.form_and_content else [])]

    def settings(self, config: StudyConfig, key: str) -> Settings:
        answers: Settings = {"form_and_content": True} if config.evaluation.form_and_content else {}
        share = config.evaluation.searched_share
        judged: Settings = {} if share is None else {"searched_share": share}
        return {"token_budget": config.evaluation.token_budget, **answers, **judged}

    def inputs(self, config: StudyConfig, key: str) -> Settings:
        return {"model": dependencies.trained_model(config)} if key == BASE else {}

    def run(self, context: RunContext, keys: Sequence[str]) -> None:
        context.console.head(f"evaluate {', '.join(keys)}")
        prepare, folders = context.stage("prepare"), {key: context.stage(self.name, key) for key in keys}
        for folder in folders.values():
            folder.start()
        tables = heldout_tables(prepare.result(PrepareResult))
        parts = {"": {target: f"{prepare.folder.name}/{table}" for target, table in tables.items()}}
        if context.config.evaluation.form_and_content:
            counts = context.stage("answers", HELDOUT).result(AnswersResult)
            parts[ANSWERS] = {
                target: f"answers/{HELDOUT}/{target}.parquet" for target, items in counts.items.items() if items
            }
        searched = _searched_ids(prepare.folder, tables, context.config.evaluation.searched_share)
        sets = []
        for key, stage in folders.items():
            adapter = None if key == BASE else last_adapter(context, key)
            sets += [
                EvaluationSet(key, target, table, adapter, stage.folder, part=part, without=searched[target])
                for part, by_target in parts.items()
                for target, table in by_target.items()
                if not _below(stage.folder, part).exists(f"{target}.parquet")
            ]
        costs = evaluate_sets(context, sets, prepare.folder.parent)
        for key, stage in folders.items():
            losses = {target: mean_loss(stage.folder, target) for target in tables}
            stage.commit(EvaluateResult(losses=losses), costs.get(key, Cost(seconds=0.0)))

    def estimate(self, context: PlanContext, keys: Sequence[str]) -> StageEstimate:
        heldout, budget = list(context.counts.heldout), context.config.evaluation.token_budget
        if not any(part.rows for part in heldout):
            return StageEstimate(self.name, rows=0, tokens=0, batches=0)
        if context.config.evaluation.form_and_content:
            heldout += [answers_of(rows, 1 + context.config.answers.others) for rows in context.counts.heldout]
        rate = context.profiler.batches(evaluation_probe(context.config))
        estimate = batch_estimate(self.name, heldout, budget, rate, len(keys), len(keys) * len(heldout))
        return replace(
            estimate,
            disk=len(keys) * sum(part.rows for part in heldout) * (ID_BYTES + LOSS_BYTES),
            memory_advice="lower evaluation.token_budget or resources.actors",
        )


@dataclass(frozen=True)
class EvaluationSet:
    """Rows on which a model is evaluated.

    Attributes:
        run: name of the model.
        target: name of the rows.
        rows: path of their table below a folder.
        adapter: checkpoint of the model; None for the base model.
        out: folder for TARGET.parquet (id, loss).
        stage: folder of the stage that it is for; by default `out`.
        part: name of a folder below `out` that TARGET.parquet is written into instead.
        without: ids of rows that are left out, and their answers.
    """

    run: str
    target: str
    rows: str
    adapter: Folder | None
    out: Folder
    stage: Folder | None = None
    part: str = ""
    without: Collection[str] = frozenset()


def _searched_ids(prepare: Folder, tables: Mapping[str, str], share: float | None) -> dict[str, frozenset[str]]:
    """Return target -> ids of the held-out rows that a search chose by; none without a share.

    Raises:
        InputError: a target has a single held-out row.
    """
    if share is None:
        return dict.fromkeys(tables, frozenset())
    searched = {}
    for target, table in tables.items():
        ids = np.asarray(prepare.read_table(table, ["id"])["id"].to_pylist())
        if len(ids) < 2:
            raise InputError(
                f"targets.{target}: one held-out row cannot be parted; give two or more, or remove "
                "evaluation.searched_share"
            )
        searched[target] = frozenset(ids[searched_rows(ids.tolist(), share)].tolist())
    return searched


def _below(folder: Folder, part: str) -> Folder:
    return folder / part if part else folder


def heldout_tables(prepared: PrepareResult) -> dict[str, str]:
    """Return target -> table of its held-out rows below *prepare*; targets without any are passed over."""
    return {name: f"targets/{name}/heldout.parquet" for name, splits in prepared.targets.items() if "heldout" in splits}


def mean_loss(folder: Folder, target: str) -> float:
    """Return the mean over a target's held-out examples of their mean answer-token cross-entropy, nats."""
    losses = folder.read_table(f"{target}.parquet", ["loss"])["loss"].to_numpy()
    return float(losses.mean())


def last_adapter(context: RunContext, run: str) -> Folder:
    """Return the checkpoint of the last epoch of a run."""
    stage = context.stage("finetune", run)
    return stage.folder / stage.result(TrainingResult).last


def evaluate_sets(context: RunContext, sets: Sequence[EvaluationSet], rows: Folder) -> Mapping[str, Cost]:
    """Write the losses of models on sets of rows.

    Args:
        context: model and settings of evaluation, and actors.
        sets: what to evaluate.
        rows: folder of their tables.

    Returns:
        Run -> what it took; the wall-clock time of all is shared out by the time that actors spent on each.
    """
    from instsel.runtime.actors import ActorPool
    from instsel.runtime.errors import Shortage

    actors, console = _actors(context.config, sets), context.console
    stages = {each.run: each.stage or each.out for each in sets}
    items = [{"run": each.run, "target": each.target, "rows": each.rows, "part": each.part} for each in sets]
    pool: ActorPool[LossResult] = ActorPool(
        "evaluate", items, rows, actors.actor, actors.arguments, lambda item: stages[item["run"]]
    )
    costs: dict[str, Cost] = {}
    shortage = Shortage(actors.budget_key, actors.budget, console)
    started = time.monotonic()
    with console.bar("evaluate", len(items), "sets") as bar:
        for row in pool.run(context.resources):
            costs[row["run"]] = _add(costs.get(row["run"], Cost(seconds=0.0)), row)
            shortage.look(row["token_budget"])
            bar.advance(1, row["tokens"])
    scale = (time.monotonic() - started) / max(sum(cost.seconds or 0.0 for cost in costs.values()), 1e-9)
    return {run: replace(cost, seconds=(cost.seconds or 0.0) * scale) for run, cost in costs.items()}


def evaluation_probe(config: StudyConfig) -> BatchProbe:
    """Return the batches that evaluation is timed on, with fresh LoRA matrices on the model."""
    return BatchProbe(
        Evaluate.name,
        partial(_rate_dependencies, config),
        partial(_probed, config),
        {"run": CHECKPOINT, "target": "probe", "part": ""},
        rows="heldout",
        needs_checkpoint=True,
    )


def _rate_dependencies(config: StudyConfig) -> Settings:
    return {**actor_dependencies(config, config.evaluation.token_budget), **dependencies.adapter_settings(config)}


def _probed(config: StudyConfig, out: Folder) -> ActorSpec:
    return _actors(config, [EvaluationSet(CHECKPOINT, "probe", "", out / CHECKPOINT, out)])


def _actors(config: StudyConfig, sets: Sequence[EvaluationSet]) -> ActorSpec:
    """Return the actors that evaluate models on sets of rows."""
    budget = config.evaluation.token_budget
    return ActorSpec(LossTaker, (config.model, sets, budget), "evaluation.token_budget", budget)


class LossResult(ItemResult):
    """What an actor says of a set of rows when it has written their losses: of which run, and its seconds."""

    run: str
    seconds: float


def _add(cost: Cost, row: LossResult) -> Cost:
    """Return the cost with what an actor says of one more set."""
    return Cost(
        tokens=cost.tokens + row["tokens"],
        peak_memory=max(cost.peak_memory, row["peak_memory"]),
        seconds=(cost.seconds or 0.0) + row["seconds"],
    )


class LossTaker:
    """Holds the base model and puts on it the adapter of the run at hand."""

    def __init__(self, threads: int, model: Model, sets: Sequence[EvaluationSet], token_budget: int) -> None:
        import torch

        from instsel.data.batching import BatchFitter
        from instsel.models.loading import load_on_devices

        torch.set_num_threads(threads)
        self.base = load_on_devices(model)
        self.adapted: Any = None
        self.loaded: str | None = None
        self.adapters = {each.run: each.adapter for each in sets}
        self.outs = {each.run: each.out for each in sets}
        self.without = {(each.run, each.target): each.without for each in sets}
        self.fitter = BatchFitter.forward(token_budget)

    def __call__(self, item: Item, ids: list[str], examples: "list[Example]") -> LossResult:
        from instsel.runtime.session import peak_memory

        started = time.monotonic()
        if without := self.without.get((item["run"], item["target"])):
            # The answers to a row are called ROW-NUMBER.
            rows = [name.rpartition("-")[0] for name in ids] if item["part"] else ids
            kept = [index for index, row in enumerate(rows) if row not in without]
            ids, examples = [ids[index] for index in kept], [examples[index] for index in kept]
        losses = self._losses(item["run"], examples)
        out = _below(self.outs[item["run"]], item["part"])
        out.write_table(f"{item['target']}.parquet", pa.table({"id": ids, "loss": losses}))
        tokens = sum(len(example["input_ids"]) for example in examples)
        seconds = time.monotonic() - started
        return {
            "run": item["run"],
            "seconds": seconds,
            "tokens": tokens,
            "peak_memory": peak_memory(),
            "token_budget": self.fitter.token_budget,
        }

    def _losses(self, run: str, examples: "list[Example]") -> np.ndarray:
        from instsel.evaluation.scoring import heldout_losses

        adapter = self.adapters[run]
        if adapter is not None:
            self._load(run, adapter)
            return heldout_losses(self.adapted, examples, fitter=self.fitter)
        if self.adapted is None:
            return heldout_losses(self.base, examples, fitter=self.fitter)
        with self.adapted.disable_adapter():
            return heldout_losses(self.adapted, examples, fitter=self.fitter)

    def _load(self, run: str, adapter: Folder) -> None:
        from instsel.models.loading import attach_adapter
        from instsel.training.checkpoint import load_adapter

        if run == self.loaded:
            return
        with adapter.local() as folder:
            if self.adapted is None:
                self.adapted = attach_adapter(self.base, folder)
            else:
                load_adapter(folder, self.adapted)
        self.loaded = run
