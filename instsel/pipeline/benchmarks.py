"""Stage *benchmarks*: the rows that targets and guards are scored on, as texts in the study's folder.

A target that names a task of lm-evaluation-harness gets its validation and held-out rows here, which *prepare* reads as
files. How answers are scored is the business of stage *accuracy*: another metric needs no new selection.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa

from instsel.config.rows import Benchmark, Target
from instsel.config.study import StudyConfig
from instsel.data.formats import Row, parse_row
from instsel.data.leaked_prompts import row_keys, shown_elsewhere
from instsel.data.messages import BadRow, Message, texts
from instsel.data.readers import SourceFile, read_chunks
from instsel.data.row_shapes import RowLayout
from instsel.data.sources import files_identity, target_files, test_files
from instsel.data.test_items import parse_item
from instsel.errors import InputError
from instsel.evaluation.tasks import (
    TaskSpec,
    load_task,
    render_rows,
    scored_documents,
    task_identity,
    validation_rows,
    written_item,
)
from instsel.io.store import Folder
from instsel.study.results import BenchmarkResult, BenchmarksResult
from instsel.study.stage import Cost, Finished, RunContext, Settings, Stage, StageKey

READ_ROWS = 1000
# Of a task without `max_validation`: each is a column of influence.
VALIDATION_ROWS = 128
CHARACTERS_A_TOKEN = 3


class Benchmarks(Stage[BenchmarksResult]):
    """Write the rows of every target and guard that is scored."""

    name = "benchmarks"
    position = 5
    version = 2

    def keys(self, config: StudyConfig) -> list[str]:
        return [""] if config.scored else []

    def parents(self, config: StudyConfig, key: str) -> list[StageKey]:
        return []

    def settings(self, config: StudyConfig, key: str) -> Settings:
        return {name: _reading(each) for name, each in config.scored.items()}

    def inputs(self, config: StudyConfig, key: str) -> Settings:
        tests: Settings = {}
        for name, each in config.scored.items():
            if each.task is None:
                tests[name] = {"files": files_identity(test_files(config, name))}
            else:
                tests[name] = {**task_identity(task_spec(config, name))}
        if all(each.task is not None for each in config.scored.values()):
            return {"tests": tests}
        validation: Settings = {name: files_identity(files) for name, files in _validation_files(config).items()}
        return {"tests": tests, "validation": validation}

    def run_key(self, context: RunContext, key: str) -> Finished[BenchmarksResult]:
        import ray

        config, folder = context.config, context.stage(self.name).folder
        files = {name: test_files(config, name) for name, each in config.scored.items() if each.task is None}
        # A process of its own, as lm-eval stays in memory.
        writing: Any = ray.remote(max_calls=1)(_write_all)
        result: BenchmarksResult = ray.get(writing.remote(config, folder, files))
        for name, of_task in result.tasks.items():
            rejected = "".join(f"; rejected {count}: {reason}" for reason, count in of_task.rejected.items())
            context.console.say(f"{name}: {of_task.items} items to score{rejected}")
        return Finished(result, Cost())


def task_spec(config: StudyConfig, name: str) -> TaskSpec:
    """Return the task of lm-eval that a target or guard names.

    Raises:
        ValueError: it has test rows of its own.
    """
    each, part = config.scored[name], "targets" if name in config.targets else "guards"
    if each.task is None:
        raise ValueError(f"{part}.{name} names no task")
    metric, answers = (None, None) if each.scoring is None else (each.scoring.metric, each.scoring.filter)
    return TaskSpec(f"{part}.{name}.task", each.task, each.shots, each.max_test, metric, answers)


def _reading(each: Benchmark) -> Settings:
    """Return the keys that say which rows are scored; not how."""
    settings: Settings = each.model_dump(mode="json", include={"task", "format", "max_test"})
    shown = each.max_validation if isinstance(each, Target) and each.task is not None else None
    return {**settings, "needs": _needs(each), "max_validation": shown}


def _needs(each: Benchmark) -> str | None:
    """Return the metric for which a row needs more than an answer: options or tests."""
    metric = None if each.test is None or each.scoring is None else each.scoring.metric
    return metric if metric in ("choice", "code") else None


def write_benchmark(
    config: StudyConfig,
    name: str,
    folder: Folder,
    files: Sequence[SourceFile],
    shown: Mapping[int, str] | None = None,
) -> BenchmarkResult:
    """Write the rows that a target or guard is scored on; of a task of lm-eval also those that it is selected by.

    Args:
        config: the study file.
        name: of the target or guard.
        folder: for test.parquet, and validation.jsonl and heldout.jsonl of a task.
        files: of test rows of the user; none for a task.
        shown: hashes of validation rows, each with its target; test rows of the user that have one are rejected.

    Raises:
        InputError: the task cannot be had, or no test row can be used.
    """
    each = config.scored[name]
    if each.task is not None:
        return _write_task(folder, task_spec(config, name), each)
    return _write_test_rows(folder, name, each, files, shown or {})


def _write_all(config: StudyConfig, folder: Folder, files: Mapping[str, list[SourceFile]]) -> BenchmarksResult:
    """Write the tasks first: their validation rows are no test rows of others."""
    results = {name: write_benchmark(config, name, folder / name, []) for name in config.scored if name not in files}
    shown = _shown(config, folder) if files else {}
    results |= {name: write_benchmark(config, name, folder / name, files[name], shown) for name in files}
    return BenchmarksResult(tasks={name: results[name] for name in config.scored})


def _validation_files(config: StudyConfig) -> dict[str, list[SourceFile]]:
    """List the files of validation rows of the user, by target."""
    return {
        name: target_files(config, name)["validation"]
        for name, target in config.targets.items()
        if target.validation is not None
    }


def _shown(config: StudyConfig, folder: Folder) -> dict[int, str]:
    """Return hashes of the validation rows of all targets, each with the first target that has it."""
    files = {
        name: [SourceFile(f"{folder}/{name}/validation.jsonl", RowLayout("messages"))]
        for name in config.targets
        if (folder / name).exists("validation.jsonl")
    }
    shown: dict[int, str] = {}
    for name, of_target in {**files, **_validation_files(config)}.items():
        rows = [row for file in of_target for row in _usable_rows(file)]
        for row in sorted(rows, key=lambda row: row.id)[: config.targets[name].max_validation]:
            for key in row_keys(texts(row.messages)):
                shown.setdefault(key, name)
    return shown


def _usable_rows(file: SourceFile) -> Iterator[Row]:
    for _, lines in read_chunks(file, READ_ROWS):
        for line in filter(None, lines):
            with suppress(BadRow):
                yield parse_row(line, layout=file.layout)


def _write_task(folder: Folder, spec: TaskSpec, each: Benchmark) -> BenchmarkResult:
    """Write the rows of a task of lm-eval."""
    task = load_task(spec)
    rows = render_rows(task, scored_documents(task, spec))
    if isinstance(each, Target):
        if each.validation is None:
            shown = sorted(validation_rows(task, spec), key=lambda row: row.id)
            _write_rows(folder, "validation", shown[: each.max_validation or VALIDATION_ROWS])
        _write_rows(folder, "heldout", rows)
    folder.write_table("test.parquet", _test_table([texts(row.messages) for row in rows], [None] * len(rows)))
    return BenchmarkResult(items=len(rows), rejected={}, version=str(task.VERSION))


def _write_test_rows(
    folder: Folder, name: str, each: Benchmark, files: Sequence[SourceFile], shown: Mapping[int, str]
) -> BenchmarkResult:
    """Write test rows of the user but those that are validation rows.

    Raises:
        InputError: no row can be used, or rows have different system turns.
    """
    rows: list[list[Message]] = []
    items, systems, rejected = list[str](), set[str](), Counter[str]()
    for line in (line for file in files for _, lines in read_chunks(file, READ_ROWS) for line in lines if line):
        if len(rows) == each.max_test:
            break
        try:
            item = parse_item(line, files[0].layout)
            if each.scoring is not None and _needs(each):
                written_item(item, each.scoring, cloze=False)
            turns = [("system", item.system), ("user", item.prompt), ("assistant", item.answers[0])]
            row = [Message(role=role, content=text) for role, text in turns if role != "system" or text]
            target = next((shown[key] for key in row_keys(row) if key in shown), None)
            if target is not None:
                raise BadRow(shown_elsewhere(target))
        except BadRow as error:
            rejected[str(error)] += 1
            continue
        rows.append(row)
        items.append(item.to_json())
        systems.add(item.system)
    if not rows:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in rejected.most_common(3)) or "there is none"
        raise InputError(f"{name}: no usable test row in {each.test}; {reasons}")
    if len(systems) > 1:
        raise InputError(f"{name}: the rows of {each.test} have {len(systems)} different system turns; a task has one")
    folder.write_table("test.parquet", _test_table(rows, items))
    return BenchmarkResult(items=len(rows), rejected=dict(rejected.most_common()), version="1")


def _write_rows(folder: Folder, split: str, rows: Sequence[Row]) -> None:
    values = ({"messages": row.messages, **({"choices": row.choices} if row.choices else {})} for row in rows)
    lines = (json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    folder.write(f"{split}.jsonl", "".join(lines).encode())


def _test_table(rows: Sequence[list[Message]], items: Sequence[str | None]) -> pa.Table:
    """Return what is scored: number, conversation with the right answer, tokens (about), a user's item as JSON."""
    tokens = [sum(len(turn["content"]) for turn in row) // CHARACTERS_A_TOKEN + 1 for row in rows]
    return pa.table(
        {
            "id": [str(number) for number in range(len(rows))],
            "messages": list(rows),
            "tokens": pa.array(tokens, pa.int32()),
            "test": pa.array(items, pa.string()),
        }
    )
