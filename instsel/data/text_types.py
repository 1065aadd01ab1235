"""Tell by the beginning of a text how its rows are laid out: JSON lines, arrays, rows under a key, columns, CSV."""

import io
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from instsel.data.cells import Cells, cell_type
from instsel.data.json_text import JsonText, skip_between, value_end
from instsel.data.splits import choose_split, split_of
from instsel.errors import InputError

# JSON lines; values one after another, or in an array; an object of columns, read whole; CSV and TSV.
Layout = Literal["lines", "values", "columns", "csv"]

# Keys under which files have their rows, the first that is there; matched in lower case.
ROW_KEYS = ("data", "rows", "examples", "instances", "records", "samples", "entries", "dataset", "questions")
# Keys of lists that are a row's turns, and keys of texts that make an object a row.
TURN_KEYS = {"messages", "conversations", "conversation", "dialogue", "dialog", "turns", "items", "chosen", "rejected"}
SPEAKER_KEYS = {"role", "from", "speaker", "human", "user", "assistant", "gpt", "bot", "model"}
TEXT_KEYS = {
    "instruction",
    "prompt",
    "question",
    "query",
    "input",
    "inputs",
    "output",
    "response",
    "completion",
    "text",
}
PYTHON_TEXT = re.compile(r"[\[{][\[{\s]*'[^'\n]*'\s*[:,\]]")
FIRST_LINES = 20


@dataclass(frozen=True)
class TextType:
    """How rows are laid out in a text.

    Attributes:
        layout: of the rows.
        path: keys under which an object has the array of rows.
        is_sole: another array of objects than that is an error, as the key is no usual one.
        cells: how CSV or TSV is read.
    """

    layout: Layout
    path: tuple[str, ...] = ()
    is_sole: bool = False
    cells: Cells | None = None


@dataclass
class _Member:
    """A key of an object and what is known of its value.

    Attributes:
        name: the key.
        opening: first character of the value.
        first: first element of an array.
        count: number of its elements, if its end is known.
        members: of an object.
    """

    name: str
    opening: str
    first: str = ""
    count: int | None = None
    members: list["_Member"] = field(default_factory=list)

    @property
    def is_turns(self) -> bool:
        """Whether the value is a conversation, and the object around it a row."""
        if self.opening != "[":
            return False
        if self.name.lower() in TURN_KEYS and (not self.first or self.first.startswith('"')):
            return True
        keys = set(_object(self.first))
        return bool({"role", "from"} & keys or (self.name.lower() in TURN_KEYS and SPEAKER_KEYS & keys))

    @property
    def has_rows(self) -> bool:
        is_array = self.opening == "[" and not self.is_turns
        return is_array and (self.first.startswith("{") or (not self.first and self.name.lower() in ROW_KEYS))


def text_type(text: str, is_whole: bool, name: str, split: str | None, may_grow: bool = False) -> TextType | None:
    """Tell the layout of a text by its beginning.

    Args:
        text: the beginning.
        is_whole: it is all of the text.
        name: of the file; its ending counts for a text of cells only, which has no mark of its own.
        split: which of several arrays has the rows, where their keys are those of splits.
        may_grow: a longer beginning can be given.

    Returns:
        The layout, or None if a longer beginning is needed.

    Raises:
        InputError: the text has no rows; the message says what it is.
    """
    start = skip_between(text, 0)
    if PYTHON_TEXT.match(text, start):
        raise InputError(
            "rows as Python prints them, in single quotes, and not JSON; write each by json.dumps(row), not by str(row)"
        )
    if text[start : start + 1] in ("[", "{"):
        return _json_type(text, start, is_whole, split, may_grow)
    if not text.strip():
        return TextType("lines") if is_whole or not may_grow else None
    cells = cell_type(text, is_whole, name)
    if cells is not None:
        return TextType("csv", cells=cells)
    lines = text[start:].split("\n", FIRST_LINES)[:FIRST_LINES]
    if _is_value(lines[0]) or any(_is_object(line) for line in lines):
        return TextType("lines")
    raise InputError("plain text, neither JSON nor CSV; write one JSON object a line, with the keys of a row")


def _json_type(text: str, start: int, is_whole: bool, split: str | None, may_grow: bool) -> TextType | None:
    is_array = text[start] == "["
    try:
        end = value_end(text, start)
    except EOFError:
        if is_array:
            return TextType("values")
        try:
            kind = _object_type(text, "values" if "\n" in text[start:].rstrip() else "lines", split)
        except InputError:
            # A key that comes later may be the split that is asked for.
            if is_whole or split is None:
                raise
            return None if may_grow else TextType("values", (split,))
        is_clear = is_whole or not may_grow or (kind.path and not kind.is_sole)
        return kind if is_clear else None
    except ValueError:
        return _broken_type(text, start, split)
    following = skip_between(text, end)
    another = text[following : following + 1]
    spans_lines = "\n" in text[start:end]
    is_same_line = "\n" not in text[end:following]
    if is_whole and not another:
        return TextType("values") if is_array else _object_type(text, "values" if spans_lines else "lines", split)
    if spans_lines or (is_same_line and another in ("[", "{")):
        return TextType("values")
    first = _first_element(text[start:end]) if is_array else ""
    has_rows = first.startswith("{") and not _Member("", "[", first).is_turns
    # Several arrays of rows, or one with other text after it, which is damaged. Another array a line is a row.
    return TextType("values" if has_rows or (is_array and another not in ("[", "{", "")) else "lines")


def _first_element(array: str) -> str:
    return next(JsonText(io.BytesIO(array.encode("utf-8", "surrogateescape"))).elements(), "")


def _broken_type(text: str, start: int, split: str | None) -> TextType:
    """Tell the layout where the first value is broken JSON: lines if it is one line alone that is broken."""
    first, _, others = text[start:].partition("\n")
    try:
        value_end(first, 0)
    except EOFError:
        if _is_object(others.lstrip("\n").partition("\n")[0]):
            return TextType("lines")
        return TextType("values") if text[start] == "[" else _object_type(text, "values", split)
    except ValueError:
        if text[start] == "[" and not others.strip():
            return TextType("values")
    return TextType("lines")


def _is_object(line: str) -> bool:
    """Whether a line is a whole JSON object and begins with it."""
    return line.startswith("{") and _is_value(line)


def _is_value(line: str) -> bool:
    with suppress(EOFError, ValueError):
        return not line[value_end(line, 0) :].strip()
    return False


def _object_type(text: str, layout: Layout, split: str | None) -> TextType:
    """Tell what a single object is: rows under a key, columns, or a row, whose layout is given."""
    members: list[_Member] = []
    with suppress(EOFError, ValueError):
        _outline(JsonText(io.BytesIO(text.encode("utf-8", "surrogateescape"))), members, deep=True)
    if any(member.is_turns for member in members):
        return TextType(layout)
    arrays = [(member.name,) for member in members if member.has_rows]
    inner = [(member.name, each.name) for member in members for each in member.members if each.has_rows]
    paths: Sequence[tuple[str, ...]] = arrays or inner
    if any(_is_usual(path[-1]) for path in paths):
        return TextType("values", _choose(paths, split))
    if _are_columns(members):
        return TextType("columns")
    is_row = any(member.name in TEXT_KEYS and member.opening == '"' for member in members)
    return TextType("values", _choose(paths, split), is_sole=True) if paths and not is_row else TextType(layout)


def _outline(text: JsonText, members: list[_Member], deep: bool) -> None:
    """Append the members of an object; where the text ends, those before it are there."""
    for name in text.keys():  # noqa: SIM118
        member = _Member(name, text.peek())
        members.append(member)
        if member.opening == "[":
            elements = text.elements()
            member.first = next(elements, "")
            member.count = sum(1 for _ in elements) + bool(member.first)
        elif member.opening == "{" and deep:
            _outline(text, member.members, deep=False)
        else:
            text.take_value()


def _are_columns(members: Sequence[_Member]) -> bool:
    """Whether an object is a table as pandas or datasets write it: arrays, or objects by number or name of the row."""
    names = {member.name for member in members}
    if {"columns", "data"} <= names:
        return True
    openings = {member.opening for member in members}
    if openings == {"["}:
        counts = {member.count for member in members if member.count is not None}
        return len(counts) < 2 and any(not member.first.startswith("{") for member in members)
    inner = {tuple(each.name for each in member.members) for member in members}
    is_keyed = openings == {"{"} and len(inner) == 1 and inner != {()}
    if openings == {"{"} and len(members) > 1 and all(_is_row(member) for member in members):
        # Of different keys perhaps.
        return True
    is_table = len(members) > 1 or any(all(name.isdigit() for name in keys) for keys in (names, *inner))
    return is_keyed and is_table and any(each.opening == '"' for member in members for each in member.members)


def _is_row(member: _Member) -> bool:
    return any(each.is_turns or (each.name in TEXT_KEYS and each.opening == '"') for each in member.members)


def _is_usual(key: str) -> bool:
    return key.lower() in ROW_KEYS or split_of(key) is not None


def _choose(paths: Sequence[tuple[str, ...]], split: str | None) -> tuple[str, ...]:
    by_name = {path[-1]: path for path in paths}
    if len(by_name) < len(paths):
        raise InputError(f"it has rows under {', '.join('.'.join(path) for path in paths)}; keep one of these keys")
    if all(split_of(name) for name in by_name):
        return by_name[choose_split(list(by_name), split)]
    if len(paths) == 1:
        return paths[0]
    usual = [path for key in ROW_KEYS for path in paths if path[-1].lower() == key]
    if not usual:
        raise InputError(f"it has rows under {', '.join(by_name)}; keep one of these keys")
    return usual[0]


def _object(value: str) -> dict[str, JsonValue]:
    """Parse an element; empty if it is no object."""
    parsed = json.loads(value, strict=False) if value.startswith("{") else {}
    return parsed if isinstance(parsed, dict) else {}
