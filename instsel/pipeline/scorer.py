"""The actor of stage *accuracy*: a base model that takes one adapter after another and answers test items."""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from instsel.config.rows import Benchmark
from instsel.config.study import Model, StudyConfig
from instsel.data.test_items import TestItem
from instsel.errors import InputError, StudyError
from instsel.evaluation.code import ALLOWED
from instsel.evaluation.tasks import ITEMS_FILE, TASK_FILE, TaskSpec, load_task, task_config, written_item
from instsel.io.store import Folder
from instsel.pipeline.benchmarks import task_spec
from instsel.pipeline.extraction import Item
from instsel.study.runs import BASE

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

# Models below it do not tell letters apart, and answer with the text of an option far better.
LETTER_PARAMETERS = 1_000_000_000
TASKS = "tasks"


@dataclass
class _Loaded:
    """The task that an actor worked on last, by the table that its items are from."""

    rows: str
    task: "ConfigurableTask"
    spec: TaskSpec


def is_cloze(each: Benchmark, model: Model) -> bool:
    """Return whether the options of a benchmark's test rows are scored as texts, with none of them shown."""
    from instsel.models.loading import parameter_count

    if each.scoring is None or each.scoring.metric != "choice":
        return False
    return each.by in ("cloze", "pmi") or (each.by == "auto" and parameter_count(model) < LETTER_PARAMETERS)


class Scorer:
    """Holds the base model and puts on it the adapter of the run at hand."""

    def __init__(
        self, threads: int, config: StudyConfig, adapters: Mapping[str, Folder | None], outs: Mapping[str, Folder]
    ) -> None:
        import torch

        from instsel.models.loading import load_on_devices, load_tokenizer
        from instsel.models.loss import keep_head_input_contiguous

        torch.set_num_threads(threads)
        os.environ[ALLOWED] = str(int(config.evaluation.run_code))
        self.config, self.adapters, self.outs = config, adapters, outs
        self.tokenizer, self.base = load_tokenizer(config.model), load_on_devices(config.model)
        keep_head_input_contiguous(self.base)
        self.adapted: Any = None
        self.loaded: str | None = None
        self.task: _Loaded | None = None

    def __call__(self, item: Item, ids: list[str], examples: list[dict[str, Any]]) -> dict[str, Any]:
        from instsel.runtime.session import peak_memory

        started, name, out = time.monotonic(), item["target"], self.outs[item["run"]]
        loaded = self._task(item, [example["test"] for example in examples])
        with self._model(item["run"], examples[0]["messages"]) as model:
            table = self._harness(model).score(loaded.task, loaded.spec, [int(each) for each in ids])
        how = {"version": str(loaded.task.VERSION), "shots": loaded.task.config.num_fewshot or 0}
        out.write_json(f"{name}.json", {**how, "source": loaded.spec.source, "chat_template": True})
        out.write_table(f"{name}.parquet", table)
        return {"run": item["run"], "seconds": time.monotonic() - started, "peak_memory": peak_memory(), "tokens": 0}

    def _harness(self, model: Any) -> Any:
        from instsel.evaluation.harness import Harness

        return Harness(model, self.tokenizer, self.config.evaluation.token_budget)

    def _task(self, item: Item, items: Sequence[str | None]) -> _Loaded:
        """Load the task of a target; one of the user's own rows is written first."""
        name, rows = item["target"], item["rows"]
        if self.task is None or self.task.rows != rows:
            each = self.config.scored[name]
            if each.task is not None:
                spec = task_spec(self.config, name)
                self.task = _Loaded(rows, load_task(spec), spec)
            else:
                with tempfile.TemporaryDirectory() as folder, _working_directory(folder):
                    spec = self._write_task(Folder.at(folder), name, each, items)
                    self.task = _Loaded(rows, load_task(spec), spec)
        return self.task

    def _write_task(self, folder: Folder, name: str, each: Benchmark, items: Sequence[str | None]) -> TaskSpec:
        if each.scoring is None:
            raise InputError(f"{name}: `test` needs `scoring`")
        is_choice, cloze = each.scoring.metric == "choice", is_cloze(each, self.config.model)
        of_choice = ("acc_mutual_info" if each.by == "pmi" else "acc_norm") if cloze else "acc"
        metric = of_choice if is_choice else str(each.scoring.metric)
        tests = [TestItem.from_json(item) for item in items if item is not None]
        written = [written_item(test, each.scoring, cloze=cloze) for test in tests]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written)
        for out in (folder, self.outs.get(BASE, folder) / TASKS / name):
            out.write(ITEMS_FILE, lines.encode())
            out.write(TASK_FILE, task_config(name, each.scoring, tests[0].system, metric=metric).encode())
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
