"""From the turns of a row, in any of the shapes that people's files have, to roles and texts."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from instsel.console import one_line
from instsel.data.keys import ARGUMENTS, CALLS, CONTENT_KEYS, MEDIA, REASONING, ROLE_KEYS, ROLES, TURN_PAIRS
from instsel.data.messages import BadRow, Turn, is_text

LONGEST_ROLE = 40
_TEXT_PARTS = ("text", "input_text", "output_text")
# Values of a column that is there and says nothing.
NOTHING: tuple[JsonValue, ...] = (None, False, [], {}, "", "[]", "{}", "null")
_TURNS = re.compile(r"\s*\[\s*\{")
_THOUGHT_PARTS = ("reasoning", "thinking")


@dataclass(frozen=True)
class TurnReader:
    """Reads turns; `roles` are the user's names of roles beside those that are known."""

    roles: Mapping[str, str] = field(default_factory=dict)

    def list_of(self, key: str, value: JsonValue) -> list[Turn]:
        """Read the turns of a row's key.

        They are a list of objects, a list of texts that the user and the assistant say in turn, an object of lists, or
        one of these as JSON in a text.

        Args:
            key: of the row, for reasons.
            value: what it holds.

        Raises:
            BadRow: it is none of these, or one of the turns cannot be read.
        """
        if isinstance(value, str):
            value = from_json(key, value)
        if isinstance(value, dict):
            value = _rows_of(key, value)
        if not isinstance(value, list) or not value:
            raise BadRow(f"`{key}` is not a list of turns")
        value = _of_json(value)
        if all(isinstance(item, str) for item in value):
            return [
                {"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(value)
            ]
        if any(isinstance(item, dict) and not _has_role(item) for item in value):
            value = [turn for item in value for turn in _of_pair(item)]
        return [self.turn(item, number) for number, item in enumerate(value, start=1)]

    def turn(self, item: JsonValue, number: int) -> Turn:
        """Read one turn; `number` counts from 1, for reasons.

        Raises:
            BadRow: it is no turn, its role is not known, or it says what is not text.
        """
        if isinstance(item, dict) and is_text(item) and (role := self._known_role(item)) is not None:
            return {"role": role, "content": item["content"]}
        return self._turn(item, number)

    def _turn(self, item: JsonValue, number: int) -> Turn:
        if isinstance(item, list):
            item = _of_map(item)
        if not isinstance(item, dict):
            raise BadRow(f"turn {number} is not an object with role and content")
        keys: dict[str, Any] = {key: value for key, value in item.items() if value is not None}
        role_key = next((key for key in ROLE_KEYS if isinstance(keys.get(key), str)), None)
        if role_key is None:
            raise BadRow(f"no `role` or `from` in turn {number}")
        role = self._role(keys.pop(role_key), number)
        content_keys = [key for key in CONTENT_KEYS if key in item]
        # Tables of turns of several kinds have all their columns, null where they are of another kind.
        content_key = next((key for key in content_keys if key in keys), next(iter(content_keys), None))
        content = keys.pop(content_key, None) if content_key else None
        turn: Turn = {"role": "assistant" if role == "call" else role, "content": None, **keys}
        where = f"turn {number} ({turn['role']})"
        if keys:
            _check_seen(turn, where)
            _put_thoughts(turn, where)
        if role == "call":
            turn["tool_calls"] = calls_of(content, where)
            return turn
        _put_content(turn, content, where)
        if "function_call" in turn:
            turn["tool_calls"] = [{"type": "function", "function": turn.pop("function_call")}]
        if "tool_calls" in turn:
            turn["tool_calls"] = _checked_calls(turn["tool_calls"], where)
            if not turn["tool_calls"]:
                del turn["tool_calls"]
        if turn["content"] is None and "tool_calls" not in turn:
            missing = "is null" if content_key else "is missing"
            raise BadRow(f"`{content_key or 'content'}` {missing} in {where}")
        return turn

    def _known_role(self, item: Mapping[str, JsonValue]) -> str | None:
        """Return the role of a turn that is a role and a text; None where it takes a closer look."""
        name = item.get("role")
        role = self.roles.get(name) or ROLES.get(name) if isinstance(name, str) else None
        return None if role == "call" else role

    def _role(self, name: str, number: int) -> str:
        role = self.roles.get(name) or ROLES.get(name.strip().lower().replace("-", "_").replace(" ", "_"))
        if role is None:
            raise BadRow(f"unknown role {one_line(name)[:LONGEST_ROLE]!r} in turn {number}; name it under `roles`")
        return role


def text_of(value: JsonValue, where: str) -> str:
    """Return what a cell says as text: texts as they are, numbers and booleans as JSON writes them.

    Raises:
        BadRow: it is a list or an object, or a number that is none.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or (isinstance(value, int | float) and math.isfinite(value)):
        return json.dumps(value)
    named = {"NoneType": "null", "list": "a list", "dict": "an object"}
    what = named.get(type(value).__name__, "NaN or infinite")
    raise BadRow(f"{where} is {what}, not text")


def from_json(key: str, text: str, where: str = "") -> JsonValue:
    """Read a column, or a key of a turn, that holds JSON in a text.

    Raises:
        BadRow: it is not JSON.
    """
    try:
        value: JsonValue = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRow(f"`{key}` is text that is not JSON{where and f' in {where}'}") from None
    return value


def turns_in(value: JsonValue) -> JsonValue:
    """Return the turns that a text holds as JSON; all else as it is."""
    if not isinstance(value, str) or not _TURNS.match(value):
        return value
    try:
        turns: JsonValue = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return turns if isinstance(turns, list) and all(map(_is_turn, turns)) else value


def calls_of(value: JsonValue, where: str) -> list[dict[str, Any]]:
    """Read the text of a turn that is a call, or several in a list, as JSON with `name` and `arguments`.

    Raises:
        BadRow: it is not.
    """
    calls = from_json("value", value, where) if isinstance(value, str) else value
    return _checked_calls(calls if isinstance(calls, list) else [calls], where)


def tools_of(key: str, value: JsonValue) -> list[Any] | None:
    """Read the tools of a row: a list of objects, also as JSON in a text; none where it is empty.

    Raises:
        BadRow: it is something else.
    """
    if isinstance(value, str):
        value = from_json(key, value) if value.strip() else None
    if value is None or value == []:
        return None
    # Some files have each tool as JSON in a text.
    tools = (
        [from_json(key, tool) if isinstance(tool, str) else tool for tool in value] if isinstance(value, list) else []
    )
    if not tools or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow(f"`{key}` is not a list of tools")
    return tools


def _is_turn(value: JsonValue) -> bool:
    keys = value.keys() if isinstance(value, dict) else set()
    return bool(keys & set(ROLE_KEYS)) and bool(keys & {*CONTENT_KEYS, *CALLS})


def _of_json(items: list[JsonValue]) -> list[JsonValue]:
    """Return turns that are objects as JSON in texts; all else as it is."""
    if not all(isinstance(item, str) and item.lstrip().startswith("{") for item in items):
        return items
    try:
        turns = [json.loads(str(item)) for item in items]
    except (ValueError, RecursionError):
        return items
    return turns if all(map(_is_turn, turns)) else items


def _has_role(item: Mapping[str, JsonValue]) -> bool:
    return any(item.get(key) is not None for key in ROLE_KEYS)


def _of_pair(item: JsonValue) -> list[JsonValue]:
    """Return the turns of an object that has a question and its answer, as files for xtuner do; all else as it is."""
    if not isinstance(item, dict) or _has_role(item):
        return [item]
    pair = next((pair for pair in TURN_PAIRS if all(item.get(key) is not None for key in pair)), None)
    if pair is None:
        return [item]
    question, answer = pair
    system: list[JsonValue] = [{"role": "system", "content": item["system"]}] if item.get("system") else []
    rest = {key: value for key, value in item.items() if key not in (*pair, "system")}
    return [
        *system,
        {"role": "user", "content": item[question]},
        {**rest, "role": "assistant", "content": item[answer]},
    ]


def _check_seen(turn: Turn, where: str) -> None:
    for key in MEDIA:
        if turn.get(key) not in NOTHING:
            raise BadRow(f"`{key}` in {where}: what it shows, a model of text cannot see")


def _put_thoughts(turn: Turn, where: str) -> None:
    """Put thoughts that are in parts together.

    Raises:
        BadRow: they are no text.
    """
    for key in REASONING:
        thought = turn.get(key)
        if isinstance(thought, list) and thought:
            turn[key] = "".join(_joined(thought, where))
        elif thought and not isinstance(thought, str):
            raise BadRow(f"`{key}` in {where} is not text")


def _rows_of(key: str, columns: Mapping[str, JsonValue]) -> JsonValue:
    """Turn an object of lists, one value a turn, into a list of objects."""
    columns = {name: value for name, value in columns.items() if value is not None}
    lists = {name: value for name, value in columns.items() if isinstance(value, list)}
    if not lists or len(lists) < len(columns) or len({len(value) for value in lists.values()}) != 1:
        raise BadRow(f"`{key}` is not a list of turns")
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _of_map(pairs: Sequence[JsonValue]) -> JsonValue:
    """Turn a list of keys and values, which is how a map of Parquet comes, into an object; all else stays a list."""
    columns: dict[str, JsonValue] = {}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            return list(pairs)
        columns[str(pair[0])] = pair[1]
    return columns


def _put_content(turn: Turn, content: JsonValue, where: str) -> None:
    if isinstance(content, list) and not (turn["role"] == "tool" and not any(map(_is_part, content))):
        text, thought = _joined(content, where)
        turn["content"] = text
        if thought:
            turn.setdefault(REASONING[0], thought)
    elif isinstance(content, dict | list):
        if turn["role"] != "tool":
            text_of(content, f"`content` in {where}")
        # What a tool gave back; templates are given it as JSON.
        turn["content"] = content
    elif content is not None:
        turn["content"] = text_of(content, f"`content` in {where}")


def _is_part(part: JsonValue) -> bool:
    return isinstance(part, dict) and isinstance(part.get("type"), str)


def _joined(parts: Sequence[JsonValue], where: str) -> tuple[str, str]:
    """Return the text of a content in parts, and what was thought."""
    texts, thoughts = [], []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, dict) and (kind in _TEXT_PARTS or (kind is None and isinstance(part.get("text"), str))):
            texts.append(_part_text(part, where))
        elif isinstance(part, dict) and kind in _THOUGHT_PARTS:
            thoughts.append(_part_text(part, where))
        else:
            raise BadRow(f"`content` has a part of type {one_line(str(kind))[:LONGEST_ROLE]!r} in {where}, not text")
    return "".join(texts), "".join(thoughts)


def _part_text(part: Mapping[str, JsonValue], where: str) -> str:
    value = next(
        (part[key] for key in (*_TEXT_PARTS, *CONTENT_KEYS, *_THOUGHT_PARTS) if part.get(key) is not None), None
    )
    return text_of(value, f"a part of `content` in {where}")


def _checked_calls(calls: JsonValue, where: str) -> list[dict[str, Any]]:
    if isinstance(calls, str):
        calls = from_json("tool_calls", calls, where)
    if not isinstance(calls, list):
        raise BadRow(f"`tool_calls` is not a list in {where}")
    return [_checked_call(call, where) for call in calls]


def _checked_call(call: JsonValue, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow(f"a call without a name in {where}")
    arguments = next((key for key in ARGUMENTS if function.get(key) is not None), None)
    function = {ARGUMENTS[0] if key == arguments else key: value for key, value in function.items()}
    if "function" in call:
        return {**call, "function": function}
    if arguments is None:
        function[ARGUMENTS[0]] = {}
    # A bare call, as ShareGPT files have it, is put under `function`, where templates look for it.
    outer: dict[str, Any] = {key: function.pop(key) for key in ("id", "type") if key in function}
    return {"type": "function", **outer, "function": function}
