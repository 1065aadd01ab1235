"""Stage *accuracy*: what the base model and every trained adapter answer on benchmarks, an item a row."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instsel.config.rows import Benchmark
from instsel.config.study import Model, StudyConfig
from instsel.data.sources import test_files
from instsel.data.test_items import TestItem
from instsel.evaluation.tasks import TaskSpec, load_task, scored_documents, written_item
from instsel.io.store import Folder
from instsel.pipeline.benchmarks import CHARACTERS_A_TOKEN, task_spec, write_benchmark
from instsel.pipeline.commands import added_cost, run_commands
from instsel.pipeline.evaluate import evaluation_probe, last_adapter
from instsel.pipeline.scorer import Scorer, is_cloze
from instsel.study import dependencies
from instsel.study.estimates import RowSet, batch_estimate
from instsel.study.results import AccuracyResult, Score
from instsel.study.runs import BASE, runs_of
from instsel.study.stage import Cost, PlanContext, RunContext, Settings, Stage, StageEstimate, StageKey

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

DEFAULT_GENERATED = 256
"""Most tokens of an answer where a task does not say: that of lm-eval's models."""
GENERATED_COST = 10
"""Tokens of a forward pass that take as long as one token that is generated, about: on a CPU 2 to 15 with SmolLM2-135M,
fewer in float32 and in large batches."""
ITEM_BYTES = 100


class Accuracy(Stage[AccuracyResult]):
    """Score the base model and each run; all go through one pool of actors."""

    name = "accuracy"
    position = 125
    is_goal = True

    def keys(self, config: StudyConfig) -> list[str]:
        return [BASE, *runs_of(config)] if config.measured else []

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        scored = [StageKey("benchmarks")] if config.scored else []
        if key == BASE:
            return scored or [StageKey("prepare")]
        return [*scored, StageKey("finetune", key)]

    def settings(self, config: StudyConfig, key: str) -> Settings:
        how = {"scoring", "by", "shots"}
        command = config.evaluation.command
        of_command: Settings = {} if command is None else {"command": command.model_dump(mode="json")}
        return {
            **{name: each.model_dump(mode="json", include=how) for name, each in config.scored.items()},
            **of_command,
        }

    def inputs(self, config: StudyConfig, key: str) -> Settings:
        return {"model": dependencies.trained_model(config)}

    def run(self, context: RunContext, keys: Sequence[str]) -> None:
        """Score what is missing, an item of work a run and target; then run the user's own command.

        Raises:
            InputError: a task has no such metric or filter, or the command leaves what cannot be read.
            StudyError: an adapter changes nothing, or the command fails.
        """
        context.console.head(f"accuracy {', '.join(keys)}")
        folders = {key: context.stage(self.name, key) for key in keys}
        for stage in folders.values():
            stage.start()
        adapters = {key: None if key == BASE else last_adapter(context, key) for key in keys}
        costs = {key: Cost(seconds=0.0) for key in keys}
        if context.config.scored:
            outs = {key: stage.folder for key, stage in folders.items()}
            costs = score_items(context, list(context.config.scored), outs, adapters)
        if context.config.commanded:
            run_commands(context, folders, adapters, costs)
        for key, stage in folders.items():
            names = context.config.measured
            scores = {name: _score(stage.folder.read_table(f"{name}.parquet")) for name in names}
            how = {name: stage.folder.read_json(f"{name}.json") for name in names}
            stage.commit(AccuracyResult(scores=scores, settings=how), costs[key])

    def estimate(self, context: PlanContext, keys: Sequence[str]) -> StageEstimate:
        """Return what scoring of test rows takes; what the user's command takes is not known."""
        import ray

        config = context.config
        if not config.scored:
            return StageEstimate(self.name, seconds=None)
        # A process of its own, as lm-eval stays in memory.
        counting: Any = ray.remote(max_calls=1)(_count_items)
        scored: list[_Scored] = ray.get(counting.remote(config))
        counted = StageEstimate(
            self.name,
            rows=len(keys) * sum(each.items for each in scored),
            tokens=len(keys) * sum(sum(each.passes) + each.generated for each in scored),
            disk=len(keys) * sum(each.items for each in scored) * ITEM_BYTES,
            memory_advice="lower evaluation.token_budget or resources.actors",
        )
        if not any(part.rows for part in context.counts.heldout):
            # The rate is that of *evaluate*, which has nothing to be timed on.
            return replace(counted, seconds=None)
        rate, sets = context.profiler.batches(evaluation_probe(config)), []
        for each in scored:
            dear = GENERATED_COST * each.generated / len(each.passes)
            lengths = np.array(each.passes) + round(dear)
            sets.append(RowSet(len(lengths), 1, lengths, np.zeros_like(lengths)))
        items = len(keys) * len(scored)
        forward = batch_estimate(self.name, sets, config.evaluation.token_budget, rate, len(keys), items)
        return replace(
            counted, seconds=forward.seconds, memory=forward.memory, together=forward.together,
            gpu_memory=forward.gpu_memory, gpu_total=forward.gpu_total,
        )  # fmt: skip


def score_items(
    context: RunContext, names: Sequence[str], outs: Mapping[str, Folder], adapters: Mapping[str, Folder | None]
) -> dict[str, Cost]:
    """Score test rows of targets and guards: what is not there yet, an item of work a run and target.

    Args:
        context: of the run.
        names: of targets and guards.
        outs: run -> folder for its scores.
        adapters: run -> its adapter; None for the base model.

    Returns:
        What each run cost.
    """
    from instsel.runtime.actors import ActorPool

    items = [
        {"run": run, "target": name, "rows": f"{name}/test.parquet"}
        for name in names
        for run, out in outs.items()
        if not out.exists(f"{name}.parquet")
    ]
    rows, arguments = context.stage("benchmarks").folder, (context.config, adapters, outs)
    pool = ActorPool(
        Accuracy.name, items, rows, Scorer, arguments, lambda item: outs[item["run"]], ["messages", "test"]
    )
    costs = {run: Cost(seconds=0.0) for run in outs}
    with context.console.bar("accuracy", len(items), "tasks") as bar:
        for row in pool.run(context.resources):
            costs[row["run"]] = added_cost(costs[row["run"]], row["seconds"], row["peak_memory"])
            bar.advance(1)
    return costs


@dataclass(frozen=True)
class _Scored:
    """What is scored of a target or guard: items, tokens of each forward pass, and most tokens that are generated."""

    items: int
    passes: list[int]
    generated: int


def _count_items(config: StudyConfig) -> list[_Scored]:
    scored = []
    with tempfile.TemporaryDirectory() as folder:
        for name, each in config.scored.items():
            out = Folder.at(folder) / name
            write_benchmark(config, name, out, test_files(config, name))
            table = out.read_table("test.parquet", ["tokens", "test"])
            prompts: list[int] = table["tokens"].to_pylist()
            if each.task is not None:
                spec = task_spec(config, name)
                task = load_task(spec)
                passes, generates = _task_passes(task, spec, prompts), task.OUTPUT_TYPE == "generate_until"
                longest = int((task.config.generation_kwargs or {}).get("max_gen_toks", DEFAULT_GENERATED))
            else:
                passes = _passes(each, config.model, prompts, table["test"].to_pylist())
                generates = each.scoring is not None and each.scoring.metric != "choice"
                longest = each.scoring.max_tokens if each.scoring is not None else 0
            scored.append(_Scored(len(prompts), passes, len(prompts) * longest if generates else 0))
    return scored


def _passes(each: Benchmark, model: Model, prompts: Sequence[int], tests: Sequence[str]) -> list[int]:
    """Return the tokens of each forward pass over a user's test rows, about: one an item, by text one an option."""
    if each.scoring is None or not is_cloze(each, model):
        return list(prompts)
    passes: list[int] = []
    for tokens, test in zip(prompts, tests, strict=True):
        options: list[str] = written_item(TestItem.from_json(test), each.scoring, cloze=True)["choices"]
        passes += [tokens] * len(options)
        if each.by == "pmi":
            # Once more without the question.
            passes += [len(option) // CHARACTERS_A_TOKEN + 1 for option in options]
    return passes


def _task_passes(task: "ConfigurableTask", spec: TaskSpec, prompts: Sequence[int]) -> list[int]:
    """Return the same of a task of lm-eval; options of one letter share a pass."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return list(prompts)
    passes: list[int] = []
    for tokens, document in zip(prompts, scored_documents(task, spec), strict=True):
        options = [str(option).strip() for option in task.doc_to_choice(document)]
        passes += [tokens] * (1 if all(len(option) == 1 for option in options) else len(options))
    return passes


def _score(table: pa.Table) -> Score:
    probability = pc.mean(table["probability"]).as_py()
    return Score(
        items=len(table),
        correct=pc.mean(table["correct"]).as_py(),
        probability=probability,
        unanswered=pc.sum(pc.invert(table["found"])).as_py() or 0,
    )
