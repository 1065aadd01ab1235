"""Benchmarks as tasks of lm-evaluation-harness: by name, from a YAML file, or written here from a user's own rows.

A target's rows for selection come from a task's training or few-shot split, rendered by the task's own text and target;
its test rows are only scored.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsel.config.rows import Scoring
from instsel.data.formats import Row, row_id
from instsel.data.messages import BadRow
from instsel.data.options import option_lists
from instsel.data.test_items import TestItem
from instsel.errors import InputError
from instsel.evaluation.metrics import ANSWER, SETUP, TESTS

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

TASK_FILE = "task.yaml"
ITEMS_FILE = "task.jsonl"
_FEWEST_OPTIONS = 2


@dataclass(frozen=True)
class TaskSpec:
    """Where a task comes from, and how much of it is scored.

    Attributes:
        key: of the study file, for messages: `targets.gsm8k.task`.
        source: name of a task of lm-eval, or path of a YAML file.
        shots: worked examples before each item; None for the task's own number.
        limit: most items that are scored, the first of the test split; None for all.
        metric: of the task, that counts; None for its first.
        filter: of the task, whose answers count; None for its first.
    """

    key: str
    source: str
    shots: int | None = None
    limit: int | None = None
    metric: str | None = None
    filter: str | None = None


def check_task(spec: TaskSpec) -> None:
    """Check that there is a task, without its data set.

    Raises:
        InputError: lm-eval has no such task, or the task's file is not there.
    """
    if not _is_path(spec.source):
        _require_single_task(_manager(is_path=False), spec)
    elif not Path(spec.source).expanduser().is_file():
        raise InputError(f"{spec.key}: file {spec.source} does not exist; correct the path")


def load_task(spec: TaskSpec) -> "ConfigurableTask":
    """Load a task and its data set.

    Raises:
        InputError: lm-eval has no such task, its data set cannot be loaded, or it runs code without limits.
    """
    check_task(spec)
    manager = _manager(is_path=_is_path(spec.source))
    source = str(Path(spec.source).expanduser()) if _is_path(spec.source) else spec.source
    try:
        tasks = manager.load(source)["tasks"]
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise InputError(f"{spec.key}: task {spec.source} cannot be loaded: {_why(error)}") from error
    (task,) = tasks.values()
    if getattr(task, "UNSAFE_CODE", False):
        raise InputError(
            f"{spec.key}: task {spec.source} runs what a model wrote without limits; give the target test rows with "
            "`tests` and `scoring: code`, which has them"
        )
    if spec.shots is not None:
        task.set_config(key="num_fewshot", value=spec.shots)
    # The seed of lm-eval's command line.
    task.set_fewshot_seed(seed=1234)
    return task


def validation_rows(task: "ConfigurableTask", spec: TaskSpec) -> list[Row]:
    """Render the rows that show what a task asks for: system (the task's description, if any), user and assistant turn.

    They are those of the training split; without one, of the few-shot examples, or of the validation split where
    another one is scored.

    Raises:
        InputError: the task has no such rows: its test rows are never shown.
    """
    config = task.config
    scored = config.test_split or config.validation_split
    if config.training_split is not None and config.training_split != scored:
        documents = task.training_docs()
    elif _has_fewshot(task, scored):
        documents = task.fewshot_docs()
    elif config.validation_split is not None and config.validation_split != scored:
        documents = task.validation_docs()
    else:
        raise InputError(
            f"{spec.key}: task {spec.source} has no rows but those that are scored, and these are never shown to a "
            "selection; give the target `validation`, a file of examples"
        )
    return render_rows(task, documents)


def render_rows(task: "ConfigurableTask", documents: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Render documents of a task with their answers and options, without worked examples before them."""
    return [_render(task, document) for document in documents]


def scored_documents(task: "ConfigurableTask", spec: TaskSpec) -> list[Mapping[str, Any]]:
    """Return the documents that are scored, in their order."""
    documents = task.eval_docs
    count = len(documents) if spec.limit is None else min(spec.limit, len(documents))
    return [documents[number] for number in range(count)]


def written_item(item: TestItem, scoring: Scoring, *, cloze: bool) -> dict[str, Any]:
    """Return an item as a written task has it.

    Args:
        item: the test row.
        scoring: how answers are scored.
        cloze: of choices: the question is shown without its options, and each of these is scored as the answer.

    Raises:
        BadRow: a choice without options, or whose answer is none of them; a program without tests.
    """
    if scoring.metric == "code":
        if not item.tests:
            raise BadRow("no `tests`, a list of Python sources that the program has to pass")
        return {"prompt": item.prompt, ANSWER: list(item.answers), SETUP: item.setup, TESTS: list(item.tests)}
    if scoring.metric != "choice":
        return {"prompt": item.prompt, ANSWER: list(item.answers)}
    shown = next((each for each in option_lists(item.prompt) if len(each.texts) >= _FEWEST_OPTIONS), None)
    if shown is None and item.choices is None:
        raise BadRow('no options: give `choices`, or options as lines "A. text" in the prompt')
    if item.choices is not None:
        texts = list(item.choices)
        shown = shown if shown is not None and len(shown.texts) == len(texts) else None
    else:
        texts = [] if shown is None else shown.texts
    labels, question = (texts, item.prompt) if shown is None else (shown.labels, item.prompt[: shown.start].rstrip())
    # As "B. ample" in "B. ample".
    lines = [f"{label}. {text}" for label, text in zip(labels, texts, strict=True)]
    if item.answers[0] not in labels and item.answers[0] in [label.lower() for label in labels]:
        # "Answer1: ..." in the prompt, and "answer1" as the answer.
        labels = [label.lower() for label in labels]
    right = next((known.index(item.answers[0]) for known in (labels, texts, lines) if item.answers[0] in known), None)
    if right is None:
        raise BadRow("the answer is none of the options")
    if cloze:
        return {"prompt": question, "choices": texts, "label": right}
    return {"prompt": item.prompt, "choices": labels, "label": right}


def task_identity(spec: TaskSpec) -> dict[str, str]:
    """Return what identifies a task before it is loaded: lm-eval's version, and its name or its file's digest.

    Raises:
        InputError: the file cannot be read.
    """
    version = metadata.version("lm_eval")
    if not _is_path(spec.source):
        return {"lm_eval": version, "task": spec.source}
    try:
        content = Path(spec.source).expanduser().read_bytes()
    except OSError as error:
        raise InputError(f"{spec.key}: file {spec.source} cannot be read; correct the path") from error
    return {"lm_eval": version, "sha256": hashlib.sha256(content).hexdigest()}


def task_config(name: str, scoring: Scoring, system: str, *, metric: str) -> str:
    """Return the YAML file of a task whose items, of `written_item`, are in task.jsonl beside it.

    Of choices the metric is "acc" by letter, "acc_norm" by text, or "acc_mutual_info" by text against its
    log-probability after no question, which takes as many passes more.

    `lm_eval --tasks task.yaml --apply_chat_template` runs it in that folder.
    """
    return _yaml(_config(name, scoring, system, metric))


def _config(name: str, scoring: Scoring, system: str, metric: str) -> dict[str, Any]:
    common: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": ITEMS_FILE}},
        "test_split": "test",
        "doc_to_text": "prompt",
        "target_delimiter": "",
        "num_fewshot": 0,
        "metadata": {"version": 1},
    }
    if system:
        common["description"] = system
    if scoring.metric == "choice":
        metrics = list(dict.fromkeys([metric, "acc"]))
        return {
            **common,
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "label",
            "metric_list": [_metric(each) for each in metrics],
        }
    functions: list[dict[str, Any]] = [{"function": "take_first"}]
    if scoring.filter is not None:
        functions.insert(0, {"function": "regex", "regex_pattern": scoring.filter, "group_select": -1})
    names = ["f1", "exact_match"] if scoring.metric == "f1" else [str(scoring.metric)]
    return {
        **common,
        "output_type": "generate_until",
        "doc_to_target": ANSWER,
        "generation_kwargs": {"until": scoring.until, "max_gen_toks": scoring.max_tokens, "do_sample": False},
        "filter_list": [{"name": "answer", "filter": functions}],
        "process_results": f"!function instsel.evaluation.metrics.{scoring.metric}_results",
        "metric_list": [_metric(metric) for metric in names],
    }


def _metric(name: str) -> dict[str, Any]:
    return {"metric": name, "aggregation": "mean", "higher_is_better": True}


def _yaml(config: Mapping[str, Any]) -> str:
    """Write a configuration; JSON is YAML, and lm-eval's one tag stands before its value."""
    lines = []
    for key, value in config.items():
        is_function = isinstance(value, str) and value.startswith("!function ")
        lines.append(f"{key}: {value if is_function else json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _render(task: "ConfigurableTask", document: Mapping[str, Any]) -> Row:
    config, choices = task.config, list[str]()
    text, target = task.doc_to_text(document), task.doc_to_target(document)
    if config.doc_to_choice is not None:
        choices = [str(choice) for choice in task.doc_to_choice(document)]
        # In tasks of several inputs the text is the number of the right one, and the target follows all of them.
        prompt, answer = (choices[text], target) if isinstance(text, int) else (text, _choice(choices, target))
    else:
        prompt, answer = text, target[0] if isinstance(target, list) else target
    prefix = task.doc_to_prefix(document) or ""
    description = config.description if isinstance(config.description, str) else ""
    turns = [("system", description.strip()), ("user", str(prompt)), ("assistant", f"{prefix}{answer}".strip())]
    messages = [{"role": role, "content": content} for role, content in turns if role != "system" or content]
    return Row(row_id(messages), messages, choices=[choice.strip() for choice in choices])


def _choice(choices: Sequence[str], target: Any) -> str:
    first = target[0] if isinstance(target, list) else target
    return str(choices[first]) if isinstance(first, int) else str(first)


def _has_fewshot(task: "ConfigurableTask", scored: str | None) -> bool:
    fewshot = task.fewshot_cfg
    return bool(fewshot.samples) or (fewshot.split is not None and fewshot.split != scored)


def _require_single_task(manager: "TaskManager", spec: TaskSpec) -> None:
    if spec.source in manager.all_subtasks:
        return
    if spec.source in {*manager.all_groups, *manager.all_tags}:
        raise InputError(
            f"{spec.key}: {spec.source} is a group of tasks; name one of its tasks, a target for each that you want"
        )
    near = difflib.get_close_matches(spec.source, manager.all_subtasks, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; `lm_eval ls tasks` lists all"
    raise InputError(f"{spec.key}: lm-eval has no task {spec.source!r}{hint}")


def _is_path(source: str) -> bool:
    return source.endswith((".yaml", ".yml"))


@lru_cache(maxsize=2)
def _manager(*, is_path: bool) -> "TaskManager":
    """Return lm-eval's tasks, whose list takes seconds to read, or a manager for files alone."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=not is_path)


def _why(error: Exception) -> str:
    first = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    away = "offline" in first.lower() or "connect" in first.lower() or "reach" in first.lower()
    hint = "; its data set is on the Hugging Face hub, which cannot be reached from here" if away else ""
    return f"{first}{hint}"
