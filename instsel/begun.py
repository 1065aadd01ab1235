"""Marks of what was begun, so that rows whose work had to be begun again are counted over every run of a stage.

A piece of work leaves an empty file KEY.TIMES.ROWS in the stage's folder before it is begun, and nothing else: the
folder's names alone tell how often each piece was begun, also by a driver that was killed.
"""

from dataclasses import dataclass

import xxhash

from instsel.storage import Folder

BEGUN = "begun"


@dataclass(frozen=True)
class Mark:
    """How often a piece of work was begun, and the rows that it is of."""

    times: int
    rows: int


def marks(stage: Folder) -> dict[str, Mark]:
    """What was begun in a stage's folder: key -> Mark."""
    found: dict[str, Mark] = {}
    for name in (stage / BEGUN).names():
        key, times, rows = name.split(".")
        found[key] = max(found.get(key, Mark(0, 0)), Mark(int(times), int(rows)), key=lambda mark: mark.times)
    return found


def mark(stage: Folder, piece: str, rows: int, known: dict[str, Mark]) -> None:
    """Note that a piece of work is begun once more than `known` says, there and in the stage's folder."""
    key = xxhash.xxh3_64_hexdigest(piece.encode())
    times = known[key].times + 1 if key in known else 1
    (stage / BEGUN).write(f"{key}.{times}.{rows}", b"")
    known[key] = Mark(times, rows)


def rows_again(stage: Folder) -> int:
    """Rows whose work was begun again; a row whose work was begun three times counts twice."""
    return sum((mark.times - 1) * mark.rows for mark in marks(stage).values())
