"""Columns that a study file names, and that the rows of its files do not have."""

import json
from collections.abc import Sequence
from itertools import islice

from instsel.data.readers import SourceFile, read_chunks

LOOKED_AT = 200
FILES_LOOKED_AT = 3


def missing_columns(files: Sequence[SourceFile]) -> tuple[list[tuple[str, str]], list[str], bool]:
    """Look for the columns named for files in the first rows of the first of them.

    Args:
        files: of one entry, which have one layout.

    Returns:
        What a column is for and its name, of those that no row has; the keys that rows have; and whether the rows all
        have the same keys, as tables do, or were all looked at, so that no later row has the column either.

    Raises:
        InputError: a file cannot be read.
    """
    named = [
        (part, name)
        for part, names in (files[0].layout.columns if files else {}).items()
        for name in ([names] if isinstance(names, str) else names)
    ]
    key_sets: set[frozenset[str]] = set()
    whole = len(files) <= FILES_LOOKED_AT
    for file in files[:FILES_LOOKED_AT] if named else ():
        chunks = list(islice(read_chunks(file, LOOKED_AT), 2))
        whole &= len(chunks) < 2
        key_sets.update(keys for line in (chunks[0][1] if chunks else []) if (keys := _keys(line)))
    known = sorted(frozenset[str]().union(*key_sets))
    missing = [(part, name) for part, name in named if key_sets and name not in known]
    return missing, known, whole or len(key_sets) == 1


def _keys(line: bytes) -> frozenset[str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return frozenset()
    return frozenset(row) if isinstance(row, dict) else frozenset()
