"""Turns of a conversation: as rows have them, as templates are given them, and as tables keep them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import pyarrow as pa
import xxhash

from instsel.data.keys import ARGUMENTS, LOSS_MARKS, MASKS, REASONING

STORED_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
"""Role and text of each turn, without null."""

_PLAIN = frozenset(("role", "content"))
_MARKS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}

Turn = dict[str, Any]
"""A turn with all its keys. `role` is system, user, assistant or tool; `content` is text, or null beside a call."""


class Message(TypedDict):
    """Role and text of a turn; the text of a turn that calls tools has the calls at its end, as JSON."""

    role: str
    content: str


class Conversation(TypedDict):
    """What of a stored row is text."""

    messages: list[Message]


@dataclass(frozen=True)
class TurnForm:
    """What a chat template wants of turns.

    Attributes:
        call_content: a text beside a call, if only an empty one.
        text_arguments: arguments of calls as JSON in a text; it cannot write objects.
        text_results: what a tool gave back as JSON in a text; it loses objects, or does not write them as JSON.
    """

    call_content: bool = False
    text_arguments: bool = False
    text_results: bool = True


class BadRow(ValueError):
    """A row that cannot be used; the message is the reason, and does not contain the row's text."""


def is_text(turn: Mapping[str, Any]) -> bool:
    """Return whether a turn is a role and a text and has no other key, as nearly all are."""
    return len(turn) == 2 and isinstance(turn.get("content"), str)


def texts(turns: Sequence[Turn]) -> list[Message]:
    """Return role and text of each turn, for everything that reads rows and is not a chat template."""
    return [{"role": turn["role"], "content": _text(turn)} for turn in turns]


def thought_turns(turns: Sequence[Turn]) -> list[Message]:
    """Return what was thought before each answer, as turns of the assistant."""
    thoughts = [next((turn[key] for key in REASONING if turn.get(key)), None) for turn in turns if not is_text(turn)]
    return [{"role": "assistant", "content": thought} for thought in thoughts if isinstance(thought, str)]


def other_keys(turns: Sequence[Turn]) -> list[str | None] | None:
    """Return what `texts` leaves out, a JSON object a turn; None for a turn without such, and if all are."""
    if all(map(is_text, turns)):
        return None
    lines = [
        json.dumps(rest, ensure_ascii=False, default=str) if rest else None
        for rest in ({key: value for key, value in turn.items() if not _is_plain(key, turn)} for turn in turns)
    ]
    return lines if any(lines) else None


def whole_turns(messages: Sequence[Message], others: Sequence[str | None] | None) -> list[Turn]:
    """Put together again what `texts` and `other_keys` took apart."""
    if others is None:
        return [dict(message) for message in messages]
    return [{**message, **(json.loads(line) if line else {})} for message, line in zip(messages, others, strict=True)]


def is_trained(turn: Mapping[str, Any]) -> bool | None:
    """Return whether an answer's loss marks say that it is trained on; None if it has none, and for all other turns.

    Raises:
        BadRow: a mark is neither true or 1 nor false or 0.
    """
    if turn.keys() <= _PLAIN or turn.get("role", "assistant") != "assistant":
        return None
    marks = [_mark(key, turn[key]) for key in LOSS_MARKS if turn.get(key) is not None]
    marks += [not _mark(key, turn[key]) for key in MASKS if turn.get(key) is not None]
    return all(marks) if marks else None


def has_tools(turns: Sequence[Turn]) -> bool:
    """Return whether a turn is a call, or what a tool gave back."""
    return any(turn["role"] == "tool" or turn.get("tool_calls") for turn in turns)


def template_turns(turns: Sequence[Turn], form: TurnForm = TurnForm()) -> list[Turn]:
    """Return turns as a chat template is given them.

    Arguments of calls that are JSON in a text become what that says, since most templates write them as JSON
    themselves. What was thought goes by all names that templates have for it.
    """
    return [_for_template(turn, form) for turn in turns]


def template_tools(tools: Sequence[Any] | None) -> list[Any] | None:
    """Return tools as a chat template is given them: a bare function is put under `function`, as templates expect."""
    if not tools:
        return None
    return [
        {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
        if isinstance(tool, dict) and "function" not in tool and "name" in tool
        else tool
        for tool in tools
    ]


def beside_words(turns: Sequence[Turn], tools: str | None = None) -> int:
    """Hash what makes two rows of nearly the same words different examples; 0 for nothing.

    That is the tools, each call with its arguments, and which answers a loss mark keeps from being trained on.

    Args:
        turns: of the row, with all their keys.
        tools: of the row, JSON.
    """
    calls = [
        [call.get("function", call) for call in turn["tool_calls"]]
        for turn in template_turns([turn for turn in turns if turn.get("tool_calls")])
    ]
    assistant = [turn for turn in turns if turn["role"] == "assistant"]
    masked = [number for number, turn in enumerate(assistant) if is_trained(turn) is False]
    if not tools and not calls and not masked:
        return 0
    beside = [json.loads(tools) if tools else None, calls, masked]
    return xxhash.xxh3_64_intdigest(json.dumps(beside, ensure_ascii=False, sort_keys=True, default=str).encode())


def _text(turn: Turn) -> str:
    content = turn.get("content")
    if is_text(turn):
        return str(content)
    text = content if isinstance(content, str) else "" if content is None else _json(content)
    calls = [_json(call.get("function", call)) for call in turn.get("tool_calls") or []]
    return "\n".join([*([text] if text or not calls else []), *calls])


def _is_plain(key: str, turn: Turn) -> bool:
    return key == "role" or (key == "content" and turn["content"] == _text(turn))


def _mark(key: str, value: object) -> bool:
    said = _MARKS.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(said, int | float) or said not in (0, 1):
        raise BadRow(f"loss mark `{key}` is neither 0 or false nor 1 or true")
    return bool(said)


def _for_template(turn: Turn, form: TurnForm) -> Turn:
    given = dict(turn)
    if is_text(turn):
        return given
    if form.text_results and isinstance(turn.get("content"), dict | list):
        given["content"] = _json(turn["content"])
    thought = next((turn[key] for key in REASONING if turn.get(key)), None)
    if thought is not None:
        given.update(dict.fromkeys(REASONING, thought))
    if turn.get("tool_calls"):
        given["tool_calls"] = [same_arguments(call, as_text=form.text_arguments) for call in turn["tool_calls"]]
        if form.call_content and given.get("content") is None:
            given["content"] = ""
    return given


def same_arguments(call: Any, *, as_text: bool = False) -> Any:
    """Return a call with its arguments as an object, or as JSON in a text, whichever way it has them."""
    function = call.get("function", call)
    arguments = parsed_arguments(function.get(ARGUMENTS[0]))
    if as_text and not isinstance(arguments, str):
        arguments = _json(arguments)
    function = {**function, ARGUMENTS[0]: arguments}
    return {"type": "function", **call, "function": function} if "function" in call else function


def parsed_arguments(arguments: Any) -> Any:
    """Return the arguments of a call, which may be JSON in a text, as an object; a text that is no such as it is."""
    if arguments is None or arguments == "":
        return {}
    if not isinstance(arguments, str):
        return arguments
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
