"""A first study file for a user's own files: what they hold is looked at, and the rest is sensible and commented."""

import heapq
import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import get_args

from instsel.config.file import parse_study, plain_values
from instsel.config.rows import Column
from instsel.config.schema import suggestion
from instsel.console import one_line
from instsel.data.encode import reason_kind
from instsel.data.folders import HELD_OUT as HELD_OUT_FOLDER
from instsel.data.folders import data_files, is_dataset
from instsel.data.formats import parse_row
from instsel.data.messages import BadRow
from instsel.data.readers import SourceFile, read_chunks, source_files
from instsel.data.row_shapes import RowLayout
from instsel.data.sources import hub_hint, size_of
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.strict import usable_name

READ_ROWS = 20_000
"""Rows that are read of each file; how many a larger one has is estimated from its bytes."""

CHUNK = 1_000
HELD_OUT = 0.05
MOST_HELD_OUT = 512
FEWEST_HELD_OUT = 4
FEWEST_TO_HOLD_OUT_OF = 20
LONGEST = 1024
YAML_ENDINGS = (".yaml", ".yml")
SMALL_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
GPU_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
BUDGETS = ((1_000, 0.2), (100_000, 0.1), (1_000_000, 0.05), (math.inf, 0.01))
"""Rows of a pool up to which a share of it is proposed as the budget."""


@dataclass(frozen=True)
class DraftFile:
    """What the first rows of a file hold.

    Attributes:
        uri: of the file.
        rows: of the whole file, estimated where it is larger than what was read.
        usable: of the rows that were read.
        rejected: reason -> rows.
        smallest: the rows with the smallest ids, a uniform sample: id, and the row as JSON.
        whole: whether every row was read.
        problem: why nothing was read.
    """

    uri: str
    rows: int = 0
    usable: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    smallest: Sequence[tuple[str, bytes]] = ()
    whole: bool = True
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.uri}: {self.what}"

    @property
    def what(self) -> str:
        """What the file holds, in words."""
        if self.problem:
            return f"left out: {self.problem}"
        about = "" if self.whole else "about "
        why = ", ".join(f"{count:,} x {reason}" for reason, count in list(self.rejected.items())[:3])
        return f"{about}{self.rows:,} rows" + (f"; rejected: {why}" if why else "")


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
    looked_at = {each.uri: each for path in paths for each in _look_at(path, layout)}
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


def _absolute(path: str) -> str:
    return path if "://" in path or path.startswith("hf:") else os.path.abspath(os.path.expanduser(path))


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


def _look_at(path: str, layout: RowLayout) -> Iterator[DraftFile]:
    """Look at the files of a path; one that is not alone and cannot be read has its problem.

    Raises:
        InputError: it does not exist, is not clear, or its only file cannot be read.
    """
    uri = _absolute(path)
    try:
        files = source_files(uri, allow_empty=True, layout=layout)
    except InputError as error:
        raise InputError(f"{error}{hub_hint(path, error)}") from error
    is_alone = [file.uri for file in files] == [uri]
    for file in files:
        try:
            yield _look(file)
        except (InputError, OSError) as error:
            if is_alone:
                raise InputError(str(error)) from error
            yield DraftFile(file.uri, problem=str(error).removeprefix(f"{file.uri}: "))
    if is_alone or not os.path.isdir(uri) or is_dataset(uri):
        return
    for name in sorted({f"{uri}/{name}" for name in data_files(uri)} - {file.uri for file in files}):
        yield DraftFile(name, problem="of another split or configuration; give its path too if it is to be in the pool")


def _look(file: SourceFile) -> DraftFile:
    looked_at = rows = usable = size = 0
    rejected: Counter[str] = Counter()
    sample: dict[str, bytes] = {}
    for line in islice((line for _, lines in read_chunks(file, CHUNK) for line in lines), READ_ROWS):
        looked_at += 1
        if not line:
            continue
        rows, size = rows + 1, size + len(line) + 1
        try:
            sample[parse_row(line, layout=file.layout).id] = line
            usable += 1
        except BadRow as error:
            rejected[reason_kind(str(error))] += 1
        if len(sample) > 2 * MOST_HELD_OUT:
            sample = dict(_smallest(sample.items()))
    if not rows:
        raise InputError(f"{file.uri}: it holds no row")
    whole = looked_at < READ_ROWS
    bytes_in_file = size_of(file.uri)
    # Of a packed file the estimate is low; a budget is proposed by it, and nothing else.
    estimate = rows if whole or math.isinf(bytes_in_file) else max(rows, round(rows * bytes_in_file / size))
    return DraftFile(file.uri, estimate, usable, dict(rejected.most_common()), _smallest(sample.items()), whole)


def _smallest(rows: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    return heapq.nsmallest(MOST_HELD_OUT, rows)


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

    task = _absolute(text) if text.endswith(YAML_ENDINGS) else text
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
    uri = _absolute(path)
    try:
        files = [_look(file) for file in source_files(uri, split=None)]
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
    rows = _smallest(dict(row for each in files for row in each.smallest).items())
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
