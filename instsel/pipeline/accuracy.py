"""Stage *accuracy*: what the base model and every trained adapter answer on benchmarks, an item a row."""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instsel.config.rows import Guard, Target
from instsel.config.study import StudyConfig
from instsel.data.sources import test_files
from instsel.data.test_items import TestItem
from instsel.errors import InputError, StudyError
from instsel.evaluation.code import ALLOWED
from instsel.evaluation.tasks import ITEMS_FILE, TASK_FILE, TaskSpec, load_task, task_config, written_item
from instsel.io.store import Folder
from instsel.pipeline.benchmarks import task_spec, write_benchmark
from instsel.pipeline.evaluate import evaluation_probe, last_adapter
from instsel.pipeline.extraction import Item
from instsel.study import dependencies
from instsel.study.estimates import RowSet, batch_estimate
from instsel.study.results import AccuracyResult, Score
from instsel.study.runs import BASE, runs_of
from instsel.study.stage import Cost, PlanContext, RunContext, Settings, Stage, StageEstimate, StageKey

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

# Models below it do not tell letters apart, and answer with the text of an option far better.
LETTER_PARAMETERS = 1_000_000_000
TASKS = "tasks"
DEFAULT_GENERATED = 256
"""Most tokens of an answer where a task does not say: that of lm-eval's models."""
GENERATED_COST = 10
"""Tokens of a forward pass that take as long as one token that is generated."""
ITEM_BYTES = 100


class Accuracy(Stage[AccuracyResult]):
    """Score the base model and each run; all go through one pool of actors."""

    name = "accuracy"
    position = 125
    is_goal = True

    def keys(self, config: StudyConfig) -> list[str]:
        return [BASE, *runs_of(config)] if config.scored else []

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        scored = StageKey("benchmarks")
        return [scored] if key == BASE else [scored, StageKey("finetune", key)]

    def settings(self, config: StudyConfig, key: str) -> Settings:
        how = {"scoring", "by", "shots"}
        return {name: each.model_dump(mode="json", include=how) for name, each in config.scored.items()}

    def inputs(self, config: StudyConfig, key: str) -> Settings:
        return {"model": dependencies.trained_model(config)}

    def run(self, context: RunContext, keys: Sequence[str]) -> None:
        """Score what is missing, an item of work a run and target.

        Raises:
            InputError: a task has no such metric or filter.
            StudyError: an adapter changes nothing.
        """
        from instsel.runtime.actors import ActorPool

        context.console.head(f"accuracy {', '.join(keys)}")
        config, rows = context.config, context.stage("benchmarks").folder
        folders = {key: context.stage(self.name, key) for key in keys}
        for stage in folders.values():
            stage.start()
        adapters = {key: None if key == BASE else last_adapter(context, key) for key in keys}
        items = [
            {"run": key, "target": name, "rows": f"{name}/test.parquet"}
            for name in config.scored
            for key, stage in folders.items()
            if not stage.folder.exists(f"{name}.parquet")
        ]
        arguments = (config, adapters, {key: stage.folder for key, stage in folders.items()})
        pool = ActorPool(
            self.name, items, rows, Scorer, arguments, lambda item: folders[item["run"]].folder, ["messages", "test"]
        )
        costs = {key: Cost(seconds=0.0) for key in keys}
        with context.console.bar("accuracy", len(items), "tasks") as bar:
            for row in pool.run(context.resources):
                before = costs[row["run"]]
                costs[row["run"]] = Cost(
                    seconds=(before.seconds or 0.0) + row["seconds"],
                    peak_memory=max(before.peak_memory, row["peak_memory"]),
                )
                bar.advance(1)
        for key, stage in folders.items():
            scores = {name: _score(stage.folder.read_table(f"{name}.parquet")) for name in config.scored}
            how = {name: stage.folder.read_json(f"{name}.json") for name in config.scored}
            stage.commit(AccuracyResult(scores=scores, settings=how), costs[key])

    def estimate(self, context: PlanContext, keys: Sequence[str]) -> StageEstimate:
        import ray

        config = context.config
        scored: list[_Scored] = ray.get(ray.remote(_count_items).remote(config))
        counted = StageEstimate(
            self.name,
            rows=len(keys) * sum(len(each.prompts) for each in scored),
            tokens=len(keys) * sum(sum(each.prompts) + each.generated for each in scored),
            disk=len(keys) * sum(len(each.prompts) for each in scored) * ITEM_BYTES,
            memory_advice="lower evaluation.token_budget or resources.actors",
        )
        if not any(part.rows for part in context.counts.heldout):
            # The rate is that of *evaluate*, which has nothing to be timed on.
            return replace(counted, seconds=None)
        rate, sets = context.profiler.batches(evaluation_probe(config)), []
        for each in scored:
            dear = GENERATED_COST * each.generated / len(each.prompts)
            lengths = np.array(each.prompts) + round(dear)
            sets.append(RowSet(len(lengths), 1, lengths, np.zeros_like(lengths)))
        items = len(keys) * len(scored)
        forward = batch_estimate(self.name, sets, config.evaluation.token_budget, rate, len(keys), items)
        return replace(
            counted, seconds=forward.seconds, memory=forward.memory, together=forward.together,
            gpu_memory=forward.gpu_memory, gpu_total=forward.gpu_total,
        )  # fmt: skip


@dataclass(frozen=True)
class _Scored:
    """What is scored of a target or guard: tokens of each prompt (about), and tokens that are generated at most."""

    prompts: list[int]
    generated: int


def _count_items(config: StudyConfig) -> list[_Scored]:
    scored = []
    with tempfile.TemporaryDirectory() as folder:
        for name, each in config.scored.items():
            out = Folder.at(folder) / name
            write_benchmark(config, name, out, test_files(config, name))
            prompts = out.read_table("test.parquet", ["tokens"])["tokens"].to_pylist()
            if each.task is not None:
                task = load_task(task_spec(config, name))
                generates = task.OUTPUT_TYPE == "generate_until"
                longest = int((task.config.generation_kwargs or {}).get("max_gen_toks", DEFAULT_GENERATED))
            else:
                generates = each.scoring is not None and each.scoring.metric != "choice"
                longest = each.scoring.max_tokens if each.scoring is not None else 0
            scored.append(_Scored(prompts, len(prompts) * longest if generates else 0))
    return scored


def _score(table: pa.Table) -> Score:
    probability = pc.mean(table["probability"]).as_py()
    return Score(
        items=len(table),
        correct=pc.mean(table["correct"]).as_py(),
        probability=probability,
        not_found=pc.sum(pc.invert(table["found"])).as_py() or 0,
    )


@dataclass
class _Loaded:
    """The task that an actor worked on last."""

    name: str
    task: "ConfigurableTask"
    spec: TaskSpec


class Scorer:
    """Holds the base model and puts on it the adapter of the run at hand."""

    def __init__(
        self, threads: int, config: StudyConfig, adapters: Mapping[str, Folder | None], outs: Mapping[str, Folder]
    ) -> None:
        import torch

        from instsel.models.loading import load_on_devices, load_tokenizer

        torch.set_num_threads(threads)
        os.environ[ALLOWED] = str(int(config.evaluation.run_code))
        self.config, self.adapters, self.outs = config, adapters, outs
        self.tokenizer, self.base = load_tokenizer(config.model), load_on_devices(config.model)
        self.adapted: Any = None
        self.loaded: str | None = None
        self.task: _Loaded | None = None

    def __call__(self, item: Item, ids: list[str], examples: list[dict[str, Any]]) -> dict[str, Any]:
        from instsel.runtime.session import peak_memory

        started, name, out = time.monotonic(), item["target"], self.outs[item["run"]]
        loaded = self._task(name, [example["test"] for example in examples])
        with self._model(item["run"], examples[0]["messages"]) as model:
            table = self._harness(model).score(loaded.task, loaded.spec, [int(each) for each in ids])
        how = {"version": str(loaded.task.VERSION), "shots": loaded.task.config.num_fewshot or 0}
        out.write_json(f"{name}.json", {**how, "source": loaded.spec.source, "chat_template": True})
        out.write_table(f"{name}.parquet", table)
        return {"run": item["run"], "seconds": time.monotonic() - started, "peak_memory": peak_memory(), "tokens": 0}

    def _harness(self, model: Any) -> Any:
        from instsel.evaluation.harness import Harness

        return Harness(model, self.tokenizer, self.config.evaluation.token_budget)

    def _task(self, name: str, items: Sequence[str | None]) -> _Loaded:
        """Load the task of a target; one of the user's own rows is written first."""
        if self.task is None or self.task.name != name:
            each = self.config.scored[name]
            if each.task is not None:
                spec = task_spec(self.config, name)
                self.task = _Loaded(name, load_task(spec), spec)
            else:
                with tempfile.TemporaryDirectory() as folder, _working_directory(folder):
                    spec = self._write_task(Folder.at(folder), name, each, items)
                    self.task = _Loaded(name, load_task(spec), spec)
        return self.task

    def _write_task(self, folder: Folder, name: str, each: Target | Guard, items: Sequence[str | None]) -> TaskSpec:
        from instsel.models.loading import parameter_count

        if each.scoring is None:
            raise InputError(f"{name}: `test` needs `scoring`")
        is_choice = each.scoring.metric == "choice"
        small = each.by == "auto" and parameter_count(self.config.model) < LETTER_PARAMETERS
        cloze = is_choice and (each.by == "cloze" or small)
        tests = [TestItem.from_json(item) for item in items if item is not None]
        written = [written_item(test, each.scoring, cloze=cloze) for test in tests]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written)
        for out in (folder, self.outs.get(BASE, folder) / TASKS / name):
            out.write(ITEMS_FILE, lines.encode())
            out.write(TASK_FILE, task_config(name, each.scoring, tests[0].system, cloze=cloze).encode())
        metric = ("acc_norm" if cloze else "acc") if is_choice else each.scoring.metric
        return TaskSpec(f"targets.{name}.test", TASK_FILE, metric=metric)

    @contextmanager
    def _model(self, run: str, prompt: Sequence[Mapping[str, str]]) -> Iterator[Any]:
        """Yield the model of a run; check that a new adapter acts on a prompt."""
        adapter = self.adapters[run]
        if adapter is None:
            if self.adapted is None:
                yield self.base
                return
            with self.adapted.disable_adapter():
                yield self.adapted
            return
        if run != self.loaded:
            self._load(run, adapter)
            self._require_effect(run, prompt)
        yield self.adapted

    def _load(self, run: str, adapter: Folder) -> None:
        from instsel.models.loading import attach_adapter
        from instsel.training.checkpoint import load_adapter

        with adapter.local() as folder:
            if self.adapted is None:
                self.adapted = attach_adapter(self.base, folder)
            else:
                load_adapter(folder, self.adapted)
        self.adapted.eval()
        self.loaded = run

    def _require_effect(self, run: str, prompt: Sequence[Mapping[str, str]]) -> None:
        """Check that logits with the adapter differ from those without.

        Raises:
            StudyError: they are equal, so scores of the run would be those of the base model.
        """
        import torch

        text = self.tokenizer.apply_chat_template(list(prompt[:-1]), tokenize=False, add_generation_prompt=True)
        harness = self._harness(self.adapted)
        acting = harness.logits(text)
        with self.adapted.disable_adapter():
            without = harness.logits(text)
        if torch.equal(acting, without):
            raise StudyError(
                f"the adapter of {run} changes no logit of the model: it is not applied, or was not trained "
                "(finetune.learning_rate)"
            )


@contextmanager
def _working_directory(folder: str) -> Iterator[None]:
    """Work in a folder while the block runs: the path of a written task's items is relative to it."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
