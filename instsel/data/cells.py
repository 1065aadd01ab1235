"""Texts of cells, CSV and TSV: tell their delimiter and columns by the beginning, and read their rows."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from string import ascii_uppercase
from typing import Any

from instsel.data.formats import MOST_BYTES
from instsel.errors import InputError

DELIMITERS = "\t,;|"
ENDINGS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
LONGEST_NAME = 64
SENTENCE_ENDS = (".", "?", "!", ":", ";")
FEWEST_CHOICE_CELLS = 4


@dataclass(frozen=True)
class Cells:
    """How a text of cells is read.

    Attributes:
        delimiter: between cells.
        is_quoted: cells may be in double quotes, which hide delimiters and line ends.
        columns: their names; None for the nameless first column in which pandas writes numbers of rows.
        has_header: whether the first record has the names.
    """

    delimiter: str
    is_quoted: bool
    columns: tuple[str | None, ...]
    has_header: bool


@dataclass(frozen=True)
class _Records:
    """The records of a beginning, as far as it can be read."""

    delimiter: str
    is_quoted: bool
    records: list[list[str]]
    is_broken: bool

    @property
    def width(self) -> int:
        return len(self.records[0]) if self.records else 0

    @property
    def agreement(self) -> float:
        """The fraction of records that are as wide as the first."""
        return sum(len(record) == self.width for record in self.records) / max(1, len(self.records))

    def rank(self, usual: str | None) -> tuple[bool, float, bool, int, int, bool]:
        """Return how likely the text is meant so, to be compared; of more records, as quotes may hide line ends."""
        is_usual = self.delimiter == usual
        return not self.is_broken, self.agreement, is_usual, self.width, len(self.records), self.is_quoted


def cell_type(text: str, is_whole: bool, name: str) -> Cells | None:
    """Tell how a text of cells is read by its beginning; None if it is no such text, as far as can be seen.

    Cells have no mark of their own: every record needs as many as the first, which has to name the columns. That is
    relaxed for files called .csv or .tsv.

    Raises:
        InputError: a file called .csv or .tsv does not name its columns.
    """
    usual = ENDINGS.get(PurePath(name).suffix.lower())
    dialects = [(delimiter, True) for delimiter in DELIMITERS] + [("\t", False)]
    read = [_read(text, is_whole, delimiter, is_quoted) for delimiter, is_quoted in dialects]
    wide = [each for each in read if each.width > 1 and (usual or (each.agreement == 1 and len(each.records) > 1))]
    if not wide and usual is None:
        return None
    best = max(wide or [_read(text, is_whole, usual or ",", True)], key=lambda each: each.rank(usual))
    columns, has_header = _columns(best.records)
    if columns is None and usual is None:
        return None
    if columns is None:
        raise InputError(
            "its first row does not name the columns (a name is short, no number and no sentence, and not used twice); "
            "put a row of names above it, such as question,answer"
        )
    return Cells(best.delimiter, best.is_quoted, columns, has_header)


def cell_rows(stream: io.BufferedIOBase, cells: Cells, uri: str) -> Iterator[bytes]:
    """Yield the records of a text of cells as JSON objects of texts; what a short record lacks is left out.

    Raises:
        InputError: a record has more cells than there are columns.
        csv.Error: quotes are where none can be.
    """
    # Bytes that are not UTF-8 stay as they are.
    text: Any = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    number = 0
    for record in _reader(text, cells.delimiter, cells.is_quoted):
        if not record:
            continue
        number += 1
        if cells.has_header and number == 1:
            continue
        if len(record) > len(cells.columns) and any(record[len(cells.columns) :]):
            raise InputError(
                f"{uri}: row {number - cells.has_header} has {len(record)} cells under {len(cells.columns)} columns; "
                "put cells that contain the delimiter into double quotes"
            )
        row = {column: cell for column, cell in zip(cells.columns, record, strict=False) if column is not None}
        yield json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _read(text: str, is_whole: bool, delimiter: str, is_quoted: bool) -> _Records:
    records: list[list[str]] = []
    is_broken = False
    try:
        for record in _reader(io.StringIO(text, newline=""), delimiter, is_quoted):
            if record:
                records.append(record)
    except csv.Error as error:
        is_broken = is_whole or "unexpected end" not in str(error)
    else:
        if not is_whole and len(records) > 1:
            # It may be cut.
            records.pop()
    return _Records(delimiter, is_quoted, records, is_broken)


def _reader(lines: Iterable[str], delimiter: str, is_quoted: bool) -> Iterator[list[str]]:
    # By default 128 KiB, less than the longest document. A row that is too long is rejected alone; what is longer still
    # is a quote without an end.
    csv.field_size_limit(4 * MOST_BYTES)
    return csv.reader(
        lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE, strict=True
    )


def _columns(records: Sequence[Sequence[str]]) -> tuple[tuple[str | None, ...] | None, bool]:
    """Return the names of the columns, None if there are none, and whether the first record has them."""
    if not records:
        return None, False
    letters = ascii_uppercase[: len(records[0]) - 2]
    if len(records[0]) >= FEWEST_CHOICE_CELLS and all(record[-1].strip() in tuple(letters) for record in records):
        # MMLU's files: a question, its options, and the letter of the right one.
        return ("question", *letters, "answer"), False
    names = [cell.strip() for cell in records[0]]
    # Spreadsheets write empty cells at the end, under no name.
    while len(names) > 1 and not names[-1] and not any(any(record[len(names) - 1 :]) for record in records):
        names.pop()
    numbers_of_rows = len(names) > 1 and not names[0]
    named = names[1:] if numbers_of_rows else names
    if len(set(named)) < len(named) or not all(_is_name(name) for name in named):
        return None, False
    return (*([None] if numbers_of_rows else []), *named), True


def _is_name(cell: str) -> bool:
    is_short = 0 < len(cell) <= LONGEST_NAME and "\n" not in cell
    return is_short and any(char.isalpha() for char in cell) and not cell.endswith(SENTENCE_ENDS)
