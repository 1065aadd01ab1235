"""An evaluation of the user's own: a command that scores a model, and leaves an item a line."""

import json
import math
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from instsel.config.evaluation import split_command
from instsel.errors import InputError, StudyError
from instsel.evaluation.items import ITEMS, prompt_digest

MOST_SHOWN = 500


def run_command(command: str, values: Mapping[str, str], log: Path) -> None:
    """Run a command and wait for it.

    Args:
        command: as `split_command` takes it.
        values: what stands for each of `PLACEHOLDERS`.
        log: file for what it prints.

    Raises:
        StudyError: it cannot be started, or fails; the message has the end of what it printed.
    """
    arguments = [argument.format_map(values) for argument in split_command(command)]
    with log.open("wb") as file:
        try:
            done = subprocess.run(arguments, stdout=file, stderr=subprocess.STDOUT, check=False)
        except OSError as error:
            raise StudyError(f"evaluation.command: {arguments[0]} cannot be started: {error}") from error
    if done.returncode:
        end = log.read_text(encoding="utf-8", errors="replace").strip()[-MOST_SHOWN:]
        raise StudyError(f"evaluation.command failed with status {done.returncode}; it said at last: {end}")


def read_items(path: Path, names: Collection[str]) -> dict[str, pa.Table]:
    """Read the items that a command left: one JSON object a line.

    Keys are `target` (a name), `item` (any text that stands for the question, the same for every model), `correct` (a
    number, mostly 0 or 1; more is better) and, if it likes, `probability`, `answer` and `right`.

    Args:
        path: of the file.
        names: targets and guards that the command scores.

    Returns:
        Name -> table of schema `ITEMS`, in the order of the file.

    Raises:
        InputError: a line cannot be used; the message has its number. Or a name has no item.
    """
    if not path.exists():
        raise InputError("evaluation.command: it ended without writing {out}")
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                name, row = _item(line, f"evaluation.command: line {number} of its items", names)
                rows[name].append({**row, "document": len(rows[name])})
    for name, items in rows.items():
        if not items:
            raise InputError(f"evaluation.command: it wrote no item of {name!r}")
        if len({row["item"] for row in items}) < len(items):
            raise InputError(f"evaluation.command: two items of {name!r} are the same; give each its own `item`")
    return {name: pa.Table.from_pylist(items, schema=ITEMS) for name, items in rows.items()}


def _item(line: str, where: str, names: Collection[str]) -> tuple[str, dict[str, Any]]:
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}") from error
    if not isinstance(raw, dict) or raw.get("target") not in names:
        raise InputError(f"{where} has no `target` that it scores; evaluation.command.scores has {', '.join(names)}")
    correct, probability = (_number(raw.get(key), f"{where}: `{key}`") for key in ("correct", "probability"))
    if correct is None or not isinstance(raw.get("item"), str | int):
        raise InputError(f"{where} needs `item`, a text, and `correct`, a number")
    row = {
        "item": prompt_digest(str(raw["item"])),
        "answer": str(raw.get("answer", "")),
        "right": str(raw.get("right", "")),
        "correct": correct,
        "probability": probability,
        "found": True,
    }
    return raw["target"], row


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where} is {value!r}, not a finite number")
    return float(value)
