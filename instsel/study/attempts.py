"""Attempts at pieces of work, counted so that rows that were processed again are known over every run of a stage.

A piece of work leaves an empty file KEY.TIMES.ROWS in the stage's folder before it starts, and nothing else: the
folder's names alone tell how often each piece was started, also by a driver that was killed.
"""

from dataclasses import dataclass

import xxhash

from instsel.io.store import Folder

ATTEMPTS = "attempts"


@dataclass(frozen=True)
class Attempts:
    """How often a piece of work was started, and how many rows it has."""

    times: int
    rows: int


def read_attempts(stage: Folder) -> dict[str, Attempts]:
    """Return the attempts at each piece of work in a stage's folder, by the digest of its name."""
    attempts: dict[str, Attempts] = {}
    for name in (stage / ATTEMPTS).names():
        key, times, rows = name.split(".")
        earlier = attempts.get(key, Attempts(0, 0))
        attempts[key] = max(earlier, Attempts(int(times), int(rows)), key=lambda each: each.times)
    return attempts


def count_attempt(stage: Folder, piece: str, rows: int, known: dict[str, Attempts]) -> None:
    """Note one more attempt at a piece of work than `known` has, there and in the stage's folder."""
    key = xxhash.xxh3_64_hexdigest(piece.encode())
    times = known[key].times + 1 if key in known else 1
    (stage / ATTEMPTS).write(f"{key}.{times}.{rows}", b"")
    known[key] = Attempts(times, rows)


def count_rows_reprocessed(stage: Folder) -> int:
    """Count the rows whose work was started again; a row whose work was started three times counts twice."""
    return sum((each.times - 1) * each.rows for each in read_attempts(stage).values())
