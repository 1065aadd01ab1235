"""A first study file for a user's own files: what they hold is looked at, and the rest is sensible and commented."""

import heapq
import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from instsel.data.encode import reason_kind
from instsel.data.formats import parse_row
from instsel.data.messages import BadRow
from instsel.data.readers import SourceFile, check_file, read_chunks, source_files
from instsel.data.sources import size_of
from instsel.errors import InputError
from instsel.io.store import Folder

READ_ROWS = 20_000
"""Rows that are read of each file; how many a larger one has is estimated from its bytes."""

CHUNK = 1_000
HELD_OUT = 0.05
MOST_HELD_OUT = 512
FEWEST_HELD_OUT, FEWEST_ROWS = 4, 16
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
    """

    uri: str
    rows: int
    usable: int
    rejected: Mapping[str, int]
    smallest: Sequence[tuple[str, bytes]]
    whole: bool

    def __str__(self) -> str:
        about = "" if self.whole else "about "
        why = ", ".join(f"{count:,} x {reason}" for reason, count in list(self.rejected.items())[:3])
        return f"{self.uri}: {about}{self.rows:,} rows" + (f"; rejected: {why}" if why else "")


def draft_study(paths: Sequence[str], targets: Sequence[str], out: Path, model: str | None = None) -> list[DraftFile]:
    """Write a study file, and the rows of a target held out of the pool where none is given.

    Args:
        paths: files, globs and folders of the pool.
        targets: a benchmark of lm-eval by name, NAME=FILE with validation rows, or NAME=FILE,FILE with held-out rows
            too. Without any, 5 % of the rows that were read are held out, 512 at most, and written beside `out`.
        out: where to write it.
        model: name or folder of the model; by default a small one, a larger one where there is a GPU.

    Returns:
        What each file holds.

    Raises:
        InputError: `out` exists, a path does not, or no file has a usable row.
    """
    if out.exists():
        raise InputError(f"{out} exists; remove it, or give another file by --out")
    entries = [_target(text) for text in targets]
    # An empty file is left out, and said to be.
    files = [_look(file) for path in paths for file in source_files(_absolute(path), allow_empty=True)]
    usable = [each for each in files if each.usable]
    if not usable:
        raise InputError("no file has a usable row:\n  " + "\n  ".join(map(str, files)))
    entries = entries or [_hold_out(usable, out)]
    text = _study_text(out.stem, files, entries, model or _model())
    Folder.at(out.resolve().parent).create().write(out.name, text.encode())
    return files


def _absolute(path: str) -> str:
    return path if "://" in path or path.startswith("hf:") else os.path.abspath(os.path.expanduser(path))


def _look(file: SourceFile) -> DraftFile:
    rows = usable = size = lines = 0
    rejected: Counter[str] = Counter()
    sample: dict[str, bytes] = {}
    for line in islice((line for _, lines in read_chunks(file, CHUNK) for line in lines), READ_ROWS):
        lines += 1
        if not line:
            continue
        rows, size = rows + 1, size + len(line) + 1
        try:
            sample[parse_row(line).id] = line
            usable += 1
        except BadRow as error:
            rejected[reason_kind(str(error))] += 1
        if len(sample) > 2 * MOST_HELD_OUT:
            sample = dict(_smallest(sample.items()))
    whole = lines < READ_ROWS
    bytes_in_file = size_of(file.uri)
    # Of a packed file the estimate is low; a budget is proposed by it, and nothing else.
    estimate = rows if whole or math.isinf(bytes_in_file) else max(rows, round(rows * bytes_in_file / max(1, size)))
    return DraftFile(file.uri, estimate, usable, dict(rejected.most_common()), _smallest(sample.items()), whole)


def _smallest(rows: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    return heapq.nsmallest(MOST_HELD_OUT, rows)


def _target(text: str) -> list[str]:
    """Return the lines of a target of the study file.

    Raises:
        InputError: its files cannot be read.
    """
    name, equals, files = text.partition("=")
    if not equals:
        return [f"  {name}:", f"    task: {_scalar(name)}  # a benchmark of lm-eval; answers to it are scored"]
    validation, _, heldout = files.partition(",")
    for path in filter(None, (validation, heldout)):
        try:
            for file in source_files(_absolute(path), split=None):
                check_file(file)
        except InputError as error:
            raise InputError(f"--target {name}: {error}") from error
    lines = [f"  {name}:", f"    validation: {_scalar(_absolute(validation))}  # gradients are taken of these rows"]
    if heldout:
        lines.append(f"    heldout: {_scalar(_absolute(heldout))}  # their loss measures the result")
    return lines


def _hold_out(files: Sequence[DraftFile], out: Path) -> list[str]:
    """Write rows of the pool as a target's, validation and held-out by turns; return the lines of that target."""
    rows = _smallest([row for each in files for row in each.smallest])
    usable = sum(each.usable for each in files)
    count = min(MOST_HELD_OUT, max(FEWEST_HELD_OUT, round(HELD_OUT * usable)))
    if min(len(rows), usable) < FEWEST_ROWS:
        raise InputError(
            "the files have too few usable rows to hold some out as a target; give one by --target NAME=FILE"
        )
    folder = Folder.at(out.resolve().parent / f"{out.stem}-heldout").create()
    names = ("validation.jsonl", "heldout.jsonl")
    for number, name in enumerate(names):
        folder.write(name, b"".join(line + b"\n" for _, line in rows[:count][number::2]))
    return [
        f"  # {count} rows of the pool itself, as no target was given; copies of them are left out of the pool. Give",
        "  # examples of the ability that you want in their place.",
        "  more_of_the_same:",
        f"    validation: {_scalar(f'{folder}/{names[0]}')}",
        f"    heldout: {_scalar(f'{folder}/{names[1]}')}",
    ]


def _model() -> str:
    return GPU_MODEL if any(map(shutil.which, ("nvidia-smi", "rocm-smi"))) else SMALL_MODEL


def _study_text(name: str, files: Sequence[DraftFile], targets: Sequence[Sequence[str]], model: str) -> str:
    usable = [each for each in files if each.usable]
    rows = sum(each.rows for each in usable)
    budget = next(share for most, share in BUDGETS if rows <= most)
    pool = [line for each in files for line in _pool_lines(each)]
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
            "  max_length: 1024  # tokens; longer rows are cut at their end",
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


def _pool_lines(each: DraftFile) -> list[str]:
    what = str(each).removeprefix(each.uri).removeprefix(": ")
    if not each.usable:
        return [f"  # left out: {each.uri}, {what}"]
    return [f"  # {what}", f"  - path: {_scalar(each.uri)}"]


def _usable_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "study"


def _scalar(text: str) -> str:
    """Return a text as YAML writes it; a JSON string is one."""
    return json.dumps(text, ensure_ascii=False)
