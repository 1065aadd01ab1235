"""What the files of a first study hold: their first rows, and a sample of these."""

import heapq
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from instsel.data.encode import reason_kind
from instsel.data.folders import data_files, is_dataset
from instsel.data.formats import parse_row
from instsel.data.messages import BadRow
from instsel.data.readers import SourceFile, read_chunks, source_files
from instsel.data.row_shapes import RowLayout
from instsel.data.sources import hub_hint, size_of
from instsel.errors import InputError

READ_ROWS = 20_000
"""Rows that are read of each file; how many a larger one has is estimated from its bytes."""

CHUNK = 1_000
MOST_HELD_OUT = 512


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
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        return f"{about}{rows}" + (f"; rejected: {why}" if why else "")


def absolute(path: str) -> str:
    """Return a path that means the same in every working directory; URIs and datasets of the hub as they are."""
    return path if "://" in path or path.startswith("hf:") else os.path.abspath(os.path.expanduser(path))


def look_at(path: str, layout: RowLayout) -> Iterator[DraftFile]:
    """Look at the files of a path; one that is not alone and cannot be read has its problem.

    Raises:
        InputError: it does not exist, is not clear, or its only file cannot be read.
    """
    uri = absolute(path)
    try:
        files = source_files(uri, allow_empty=True, layout=layout)
    except InputError as error:
        raise InputError(f"{error}{hub_hint(path, error)}") from error
    is_alone = [file.uri for file in files] == [uri]
    for file in files:
        try:
            yield look(file)
        except (InputError, OSError) as error:
            if is_alone:
                raise InputError(str(error)) from error
            yield DraftFile(file.uri, problem=str(error).removeprefix(f"{file.uri}: "))
    if is_alone or not os.path.isdir(uri) or is_dataset(uri):
        return
    for name in sorted({f"{uri}/{name}" for name in data_files(uri)} - {file.uri for file in files}):
        yield DraftFile(name, problem="of another split or configuration; give its path too if it is to be in the pool")


def look(file: SourceFile) -> DraftFile:
    """Read the first rows of a file.

    Raises:
        InputError: it cannot be read, or holds no row.
    """
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
            sample = dict(smallest(sample.items()))
    if not rows:
        raise InputError(f"{file.uri}: it holds no row")
    whole = looked_at < READ_ROWS
    bytes_in_file = size_of(file.uri)
    # Of a packed file the estimate is low; a budget is proposed by it, and nothing else.
    estimate = rows if whole or math.isinf(bytes_in_file) else max(rows, round(rows * bytes_in_file / size))
    return DraftFile(file.uri, estimate, usable, dict(rejected.most_common()), smallest(sample.items()), whole)


def smallest(rows: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Return the rows with the smallest ids, in order."""
    return heapq.nsmallest(MOST_HELD_OUT, rows)
