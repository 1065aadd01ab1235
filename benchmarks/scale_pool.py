"""A made-up pool of short rows, written row by row: the same bytes for the same size."""

import json
from pathlib import Path
from random import Random

THINGS = ["apples", "pears", "plums", "figs", "limes", "melons", "dates", "grapes", "nuts", "olives"]
PLACES = ["Oslo", "Lima", "Cairo", "Quito", "Delhi", "Seoul", "Paris", "Rome", "Bern", "Accra"]
TASKS = ["add", "take", "share"]
HALVED_EVERY = 100
BROKEN_EVERY = 1000


def write_pool(folder: Path, rows: int, files: int) -> None:
    """Write `rows` lines of about 150 bytes into JSONL files of equal length, as far as they divide.

    One line in `HALVED_EVERY` has the row of half its number: every other of these is a copy of an earlier line. One in
    `BROKEN_EVERY` is cut off.
    """
    folder.mkdir(parents=True)
    for file in range(files):
        numbers = range(file * rows // files, (file + 1) * rows // files)
        with (folder / f"{file:03d}.jsonl").open("w", encoding="utf-8") as stream:
            stream.writelines(_line(number) for number in numbers)


def write_target(path: Path) -> None:
    """Write 16 rows that are none of the pool's."""
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(_line(-number) for number in range(2, 18))


def _line(number: int) -> str:
    if number % HALVED_EVERY == HALVED_EVERY - 1:
        number //= 2
    lot = Random(number)
    held, more, task = lot.randrange(1000), lot.randrange(1000), lot.choice(TASKS)
    question = f"Order {number}: {held} {lot.choice(THINGS)} in {lot.choice(PLACES)}, {task} {more}. How many?"
    answer = f"{held + more} after {task}."
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    line = json.dumps({"messages": messages, "source": "orders", "task": task})
    return line[: len(line) // 2] + "\n" if number % BROKEN_EVERY == BROKEN_EVERY - 2 else line + "\n"
