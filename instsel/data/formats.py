"""Parse rows of people's files to the turns of a conversation, or give the reason why that fails."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from instsel.config.rows import RowFormat
from instsel.console import one_line
from instsel.data import keys
from instsel.data.messages import BadRow, Turn, is_text, is_trained, same_arguments
from instsel.data.other_answers import choices_of
from instsel.data.row_shapes import NO_ANSWER, RowLayout, RowParts
from instsel.data.row_turns import NOTHING, tools_of

# More than in any useful row; larger ones would take unbounded memory or time.
MOST_BYTES = 16 << 20
MOST_TURNS = 1_000
LONGEST_NAME = 1_000
SPEAKERS = set(keys.ROLE_KEYS)
_SURROGATE = re.compile("[\ud800-\udfff]")
# Where LLaVA and LLaMA-Factory have a picture: at the beginning of a question, or at its end.
_MEDIA_MARK = re.compile(r"\A\s*<(?:image|video|audio)>|<(?:image|video|audio)>\s*\Z")


@dataclass(frozen=True)
class Row:
    """A conversation.

    Attributes:
        id: digest of what a model is shown of it.
        messages: its turns, with every key that they have.
        tools: what the assistant may call, as the row has it; None without any.
        source: name of where it is from, if it has one.
        task: name of its task, if it has one.
        extra: the row's other keys.
        choices: answers to choose from, where it has them.
        original_id: the id that the row has in its file.
    """

    id: str
    messages: list[Turn]
    tools: list[Any] | None = None
    source: str | None = None
    task: str | None = None
    extra: dict[str, JsonValue] = field(default_factory=dict)
    choices: list[str] = field(default_factory=list)
    original_id: str | None = None


def parse_row(
    value: bytes | Mapping[str, JsonValue],
    row_format: RowFormat = "auto",
    *,
    task_column: str = "task",
    layout: RowLayout | None = None,
) -> Row:
    """Parse a row.

    Args:
        value: JSON object in UTF-8, or what it holds.
        row_format: see `RowLayout`; used where no layout is given.
        task_column: column with the row's task.
        layout: where the row has what.

    Raises:
        BadRow: the row cannot be used; the message is the reason.
    """
    raw = read_object(value) if isinstance(value, bytes) else dict(value)
    layout = layout or RowLayout(row_format)
    parts = RowParts(raw, layout)
    turns = parts.turns()
    tools_key = parts.key_of("tools", keys.TOOLS)
    tools = tools_of(tools_key, parts.take(tools_key)) if tools_key else None
    if tools is None:
        tools = _tools_of_system(turns)
    _check(turns)
    _reject_unseen(raw, turns)
    source, task = _name(parts.named("source", "source")), _name(parts.named("task", task_column))
    choices = choices_of(parts.options())
    original_id = _name(parts.of_column("id", "id"))
    extra = parts.rest()
    # From bytes one comes by an escape alone, which few rows have.
    if (not isinstance(value, bytes) or b"\\u" in value) and _has_surrogate([turns, tools, choices, extra]):
        raise BadRow("half a Unicode surrogate pair")
    return Row(row_id(turns, tools), turns, tools, source, task, extra, choices, original_id)


def read_object(line: bytes) -> dict[str, JsonValue]:
    """Read a line of JSON that is an object; an array of turns becomes one that has them as `messages`.

    Raises:
        BadRow: it is too long, not UTF-8, or no such object.
    """
    if len(line) > MOST_BYTES:
        raise BadRow(f"longer than {MOST_BYTES >> 20} MiB")
    try:
        raw = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise BadRow("not UTF-8") from None
    except json.JSONDecodeError as error:
        if line.lstrip().startswith(b"{'"):
            raise BadRow("an object of Python, with single quotes, and not JSON") from None
        raise BadRow(f"broken JSON at column {error.colno}") from None
    except (RecursionError, ValueError):
        raise BadRow("JSON that is nested too deep or has too long a number") from None
    if isinstance(raw, list) and raw and all(isinstance(each, dict) and SPEAKERS & each.keys() for each in raw):
        # A conversation alone, without a key.
        return {keys.TURN_LISTS[0]: raw}
    if isinstance(raw, list):
        raise BadRow("a JSON array, not an object with keys")
    if not isinstance(raw, dict):
        raise BadRow("not a JSON object")
    return raw


def row_id(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None) -> str:
    """Return 16 hex digits of a SHA-256 over what a model is shown.

    That is role and content of each turn, calls, thoughts and the tools; a loss mark counts where it keeps a turn from
    being trained on. File, position and other keys do not matter.
    """
    turns = [[message["role"], message["content"], *_special(message)] for message in messages]
    shown = turns if not tools else {"turns": turns, "tools": tools}
    return hashlib.sha256(json.dumps(shown, ensure_ascii=False, default=str, sort_keys=True).encode()).hexdigest()[:16]


def _special(message: Mapping[str, Any]) -> list[Any]:
    if is_text(message):
        return []
    special = {key: message[key] for key in sorted(keys.SEEN) if message.get(key) is not None}
    if "tool_calls" in special:
        special["tool_calls"] = [same_arguments(call) for call in special["tool_calls"]]
    if message["role"] == "assistant" and is_trained(message) is False:
        special["trained"] = False
    return [special] if special else []


def _check(turns: Sequence[Turn]) -> None:
    if not any(turn["role"] == "assistant" for turn in turns):
        raise BadRow(NO_ANSWER)
    if len(turns) > MOST_TURNS:
        raise BadRow(f"more than {MOST_TURNS:,} turns")
    for number, turn in enumerate(turns, start=1):
        content = turn["content"]
        partial = None if is_text(turn) else next((key for key in keys.PARTIAL_MARKS if turn.get(key)), None)
        if partial is not None and turn["role"] == "assistant":
            raise BadRow(f"`{partial}` in turn {number} (assistant): an answer is trained on as a whole or not")
        if (
            turn["role"] in ("user", "assistant")
            and not turn.get("tool_calls")
            and isinstance(content, str)
            and not content.strip()
        ):
            raise BadRow(f"empty content in turn {number} ({turn['role']})")
    if all(is_trained(turn) is False for turn in turns if turn["role"] == "assistant"):
        raise BadRow("loss marks keep every answer from being trained on")


def _has_surrogate(value: object) -> bool:
    return "\\ud" in json.dumps(value) and bool(_SURROGATE.search(json.dumps(value, ensure_ascii=False)))


def _tools_of_system(turns: Sequence[Turn]) -> list[Any] | None:
    """Return the tools that a system turn has, as files for GLM-4 do."""
    for number, turn in enumerate(turns, start=1):
        for key in keys.TOOLS if turn["role"] == "system" else ():
            if turn.get(key) is not None:
                return tools_of(f"{key} of turn {number}", turn[key])
    return None


def _reject_unseen(raw: Mapping[str, JsonValue], turns: Sequence[Turn]) -> None:
    for key in keys.MEDIA:
        if raw.get(key) not in NOTHING:
            raise BadRow(f"`{key}`: what it shows, a model of text cannot see")
    for number, turn in enumerate(turns, start=1):
        content = turn["content"]
        if turn["role"] == "user" and isinstance(content, str) and "<" in content and _MEDIA_MARK.search(content):
            raise BadRow(
                f"a place for a picture, sound or video in turn {number} (user), which a model of text cannot see"
            )


def _name(value: JsonValue) -> str | None:
    """Return a name for tables, logs and reports as one line of printable characters; None stays None."""
    if value is None:
        return None
    return one_line(str(value).encode("utf-8", "replace").decode())[:LONGEST_NAME]
