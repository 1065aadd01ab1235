"""A first study file for a user's own files: what they hold is looked at, and the rest is sensible and commented."""

import json
import math
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from instsel.config.file import parse_study, plain_values
from instsel.config.rows import Column
from instsel.config.schema import suggestion
from instsel.console import one_line
from instsel.data.folders import HELD_OUT as HELD_OUT_FOLDER
from instsel.data.readers import source_files
from instsel.data.row_shapes import RowLayout
from instsel.data.sources import hub_hint
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.pipeline.draft_files import MOST_HELD_OUT, DraftFile, absolute, look, look_at, smallest
from instsel.strict import usable_name

HELD_OUT = 0.05
FEWEST_HELD_OUT = 4
FEWEST_TO_HOLD_OUT_OF = 20
LONGEST = 1024
YAML_ENDINGS = (".yaml", ".yml")
SMALL_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
GPU_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
BUDGETS = ((1_000, 0.2), (100_000, 0.1), (1_000_000, 0.05), (math.inf, 0.01))
"""Rows of a pool up to which a share of it is proposed as the budget."""


def draft_study(
    paths: Sequence[str],
    targets: Sequence[str],
    out: Path,
    model: str | None = None,
    columns: Sequence[str] = (),
) -> list[DraftFile]:
    """Write a study file, and the rows of a target held out of the pool where none is given.

    Args:
        paths: files, globs and folders of the pool. A file of a folder or glob that cannot be read is left out.
        targets: a benchmark of lm-eval by name, NAME=FILE with validation rows, or NAME=FILE,FILE with held-out rows
            too. Without any, 5 % of the rows that were read are held out, at least 4 and at most 512, and written
            beside `out`.
        out: where to write it.
        model: name or folder of the model; by default a small one, a larger one where there is a GPU.
        columns: PART=COLUMN, columns of the pool's files that are not known by themselves, as in `pool.0.columns`.

    Returns:
        What each file holds.

    Raises:
        InputError: `out` exists, a path does not, no file has a usable row, or a target cannot be used.
    """
    if out.exists():
        raise InputError(f"{out} exists; remove it, or give another file by --out")
    layout = _layout(columns)
    looked_at = {each.uri: each for path in paths for each in look_at(path, layout)}
    files = list(looked_at.values())
    usable = [each for each in files if each.usable]
    if not usable:
        raise InputError("no file has a usable row:\n  " + "\n  ".join(map(str, files)) + _hint(files, layout))
    _check_names(targets)
    entries, held_out = [_target(text) for text in targets], dict[Path, bytes]()
    if not targets:
        lines, held_out = _hold_out(usable, out, layout)
        entries = [lines]
    text = _study_text(out.stem, files, entries, model or _model(), layout)
    parse_study(plain_values(text), str(out))
    for path, content in held_out.items():
        Folder.at(path.parent).create().write(path.name, content)
    Folder.at(out.resolve().parent).create().write(out.name, text.encode())
    return files


def _layout(columns: Sequence[str]) -> RowLayout:
    """Return where rows have what, of texts PART=COLUMN."""
    named: dict[str, str] = {}
    for text in columns:
        part, equals, column = text.partition("=")
        if not equals or not column or part not in get_args(Column):
            hint = suggestion(part, get_args(Column)) or f", a PART of {', '.join(get_args(Column))}"
            raise InputError(f"--column {text}: write PART=COLUMN, such as prompt=ask{hint}")
        named[part] = column
    return RowLayout(columns=named)


def _hint(files: Sequence[DraftFile], layout: RowLayout) -> str:
    is_unnamed = not layout.columns and any("`columns`" in reason for each in files for reason in each.rejected)
    return "\nname the columns by --column prompt=COLUMN --column answer=COLUMN" if is_unnamed else ""


def _check_names(targets: Sequence[str]) -> None:
    names = [_target_name(text) for text in targets]
    for name, text in zip(names, targets, strict=True):
        if "=" not in text and not text.endswith(YAML_ENDINGS) and os.path.exists(text):
            raise InputError(f"--target {text}: examples need a name; write NAME={text}")
        try:
            usable_name(name)
        except ValueError as error:
            raise InputError(f"--target {text}: {error}") from error
        if names.count(name) > 1:
            raise InputError(f"--target {text}: two targets are called {name!r}; give each a name of its own")


def _target_name(text: str) -> str:
    name, equals, _ = text.partition("=")
    return name if equals or not text.endswith(YAML_ENDINGS) else Path(text).stem


def _target(text: str) -> list[str]:
    """Return the lines of a target of the study file.

    Raises:
        InputError: there is no such benchmark, or a file has no usable row.
    """
    name, equals, files = text.partition("=")
    if not equals:
        return _benchmark(text)
    if not files:
        raise InputError(f"--target {text}: no file is named; write {name}=FILE, examples of the ability")
    validation, _, heldout = (files, "", "") if os.path.exists(files) else files.partition(",")
    lines = [f"  {_key(name)}:", f"    validation: {_examples(text, validation)}  # gradients are taken of these rows"]
    if heldout:
        lines.append(f"    heldout: {_examples(text, heldout)}  # their loss measures the result")
    return lines


def _benchmark(text: str) -> list[str]:
    from instsel.evaluation.tasks import TaskSpec, check_task

    task = absolute(text) if text.endswith(YAML_ENDINGS) else text
    check_task(TaskSpec(f"--target {text}", task))
    return [
        f"  {_key(_target_name(text))}:",
        f"    task: {_scalar(task)}  # a benchmark of lm-eval; answers to it are scored",
    ]


def _examples(text: str, path: str) -> str:
    """Return a file of a target as the study file has it.

    Raises:
        InputError: it has no usable row.
    """
    uri = absolute(path)
    try:
        files = [look(file) for file in source_files(uri, split=None)]
    except InputError as error:
        raise InputError(f"--target {text}: {error}{hub_hint(path, error)}") from error
    if not any(file.usable for file in files):
        raise InputError(
            f"--target {text}: no usable row; {'; '.join(map(str, files))}; correct the file, or write a study file "
            "with `columns`"
        )
    return _scalar(uri)


def _hold_out(files: Sequence[DraftFile], out: Path, layout: RowLayout) -> tuple[list[str], dict[Path, bytes]]:
    """Take rows of the pool as a target's, validation and held-out by turns; return its lines, and what to write.

    Raises:
        InputError: there are too few, or the folder for them is there already.
    """
    usable = sum(each.usable for each in files)
    if usable < FEWEST_TO_HOLD_OUT_OF:
        raise InputError(
            f"the files have {usable} usable rows, too few to hold some out as a target; give one by --target NAME=FILE"
        )
    # A row that several files have comes once, as its copy would be on the other side.
    rows = smallest(dict(row for each in files for row in each.smallest).items())
    count = min(MOST_HELD_OUT, max(FEWEST_HELD_OUT, round(HELD_OUT * usable)))
    folder = out.resolve().parent / f"{out.stem}{HELD_OUT_FOLDER}"
    if folder.exists():
        raise InputError(f"{folder} exists; remove it, or give another study file by --out")
    paths = [folder / name for name in ("validation.jsonl", "heldout.jsonl")]
    parts = [rows[:count][number::2] for number in range(2)]
    content = {path: b"".join(line + b"\n" for _, line in part) for path, part in zip(paths, parts, strict=True)}
    lines = [
        f"  # {len(rows[:count])} rows of the pool itself, as no target was given; copies of them are left out of the",
        "  # pool. Give examples of the ability that you want in their place.",
        "  more_of_the_same:",
        f"    validation: {_scalar(str(paths[0]))}",
        f"    heldout: {_scalar(str(paths[1]))}",
        *_column_lines(layout),
    ]
    return lines, content


def _model() -> str:
    return GPU_MODEL if any(map(shutil.which, ("nvidia-smi", "rocm-smi"))) else SMALL_MODEL


def _longest(model: str) -> int:
    """Return the longest row in tokens: no more than the model's positions, where they are known here."""
    from instsel.models.checks import most_positions

    return min(LONGEST, most_positions(model) or LONGEST)


def _study_text(
    name: str, files: Sequence[DraftFile], targets: Sequence[Sequence[str]], model: str, layout: RowLayout
) -> str:
    usable = [each for each in files if each.usable]
    rows = sum(each.rows for each in usable)
    budget = next(share for most, share in BUDGETS if rows <= most)
    pool = [line for each in files for line in _pool_lines(each, layout)]
    return "\n".join(
        [
            f"# A study of about {rows:,} rows in {len(usable)} files. `instsel check` looks at it, `instsel plan`",
            "# tells what it takes, `instsel run` runs it.",
            f"name: {_scalar(_usable_name(name))}",
            f"out: runs/{_usable_name(name)}",
            "",
            "model:",
            f"  name: {_scalar(model)}  # chooses and is trained; a folder or a hub id",
            "  dtype: auto  # bfloat16 where the machine computes it, else float32",
            "",
            "pool:",
            *pool,
            "",
            "targets:",
            *(line for lines in targets for line in lines),
            "",
            "data:",
            f"  max_length: {_longest(model)}  # tokens; longer rows are cut at their end",
            "",
            "selection:",
            f"  budget: {budget}  # share of the pool; a whole number is a count of rows",
            "  methods:",
            "    - random  # what every other method is compared with",
            "    - bids  # by the influence of a row's gradient on the targets, balanced over them",
            "",
            "finetune:",
            "  epochs: 2",
            "  learning_rate: 5e-4  # of LoRA; lower it for large models",
            "",
        ]
    )


def _pool_lines(each: DraftFile, layout: RowLayout) -> list[str]:
    # A comment ends with its line.
    what = one_line(each.what)
    if not each.usable:
        return [f"  # {one_line(each.uri)}, {what}" if each.problem else f"  # left out: {one_line(each.uri)}, {what}"]
    return [f"  # {what}", f"  - path: {_scalar(each.uri)}", *_column_lines(layout)]


def _column_lines(layout: RowLayout) -> list[str]:
    return [f"    columns: {json.dumps(dict(layout.columns), ensure_ascii=False)}"] if layout.columns else []


def _usable_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "study"


def _key(name: str) -> str:
    return name if plain_values(name) == name else _scalar(name)


def _scalar(text: str) -> str:
    """Return a text as YAML writes it; a JSON string is one."""
    return json.dumps(text, ensure_ascii=False)
