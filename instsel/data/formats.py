"""Parse rows of user files in three formats to a list of messages, or give the reason why that fails."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from pydantic import JsonValue

from instsel.config.study import RowFormat
from instsel.console import one_line

# More than in any useful row; larger ones would take unbounded memory or time.
MOST_BYTES = 16 << 20
MOST_TURNS = 1_000
LONGEST_NAME = 1_000
ROLES = {"system", "user", "assistant", "tool"}
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}


class Message(TypedDict):
    """A turn of a conversation: who says what; the role is one of `ROLES`."""

    role: str
    content: str


class Conversation(TypedDict):
    """What of a stored row is text."""

    messages: list[Message]


class BadRow(ValueError):
    """A row that cannot be used; the message is the reason, and does not contain the row's text."""


@dataclass(frozen=True)
class Row:
    """A conversation: its messages, id (a digest of the messages), source and task."""

    id: str
    messages: list[Message]
    source: str | None
    task: str | None


def parse_row(line: bytes, row_format: RowFormat, task_column: str = "task") -> Row:
    """Parse one line of JSON into a row.

    Args:
        line: JSON object in UTF-8.
        row_format: "messages", "alpaca", "sharegpt", or "auto" to detect it from the row's keys.
        task_column: column with the row's task.

    Raises:
        BadRow: the row cannot be used; the message is the reason.
    """
    if len(line) > MOST_BYTES:
        raise BadRow(f"longer than {MOST_BYTES >> 20} MiB")
    try:
        raw = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise BadRow("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadRow(f"broken JSON at column {error.colno}") from None
    except (RecursionError, ValueError):
        raise BadRow("JSON that is nested too deep or has too long a number") from None
    if not isinstance(raw, dict):
        raise BadRow("not a JSON object")
    messages = _messages(raw, row_format)
    _check(messages)
    return Row(row_id(messages), messages, _text(raw.get("source")), _text(raw.get(task_column)))


def row_id(messages: Sequence[Message]) -> str:
    """Return 16 hex digits of a SHA-256 over roles and contents; file, position and other keys do not matter."""
    content = json.dumps([[message["role"], message["content"]] for message in messages], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _messages(raw: Mapping[str, JsonValue], row_format: RowFormat) -> list[Message]:
    if row_format == "auto":
        row_format = _detect_format(raw)
    if row_format == "messages":
        return [_message(item, "role", "content", None) for item in _list(raw, "messages")]
    if row_format == "sharegpt":
        turns = [_message(item, "from", "value", SHAREGPT_ROLES) for item in _list(raw, "conversations")]
        system = raw.get("system")
        return [{"role": "system", "content": system}, *turns] if isinstance(system, str) and system else turns
    return _alpaca(raw)


def _detect_format(raw: Mapping[str, JsonValue]) -> RowFormat:
    # By value, not only by key: in Parquet every row has every column, null if it is of another format.
    if raw.get("messages") is not None:
        return "messages"
    if raw.get("conversations") is not None:
        return "sharegpt"
    if raw.get("instruction") is not None and raw.get("output") is not None:
        return "alpaca"
    raise BadRow("none of the formats: needs `messages`, `conversations`, or `instruction` and `output`")


def _list(raw: Mapping[str, JsonValue], key: str) -> list[JsonValue]:
    value = raw.get(key)
    if not isinstance(value, list) or not value:
        raise BadRow(f"`{key}` is not a list of turns")
    return value


def _message(item: JsonValue, role_key: str, content_key: str, roles: Mapping[str, str] | None) -> Message:
    if not isinstance(item, dict) or role_key not in item or content_key not in item:
        raise BadRow(f"a turn without `{role_key}` and `{content_key}`")
    role, content = item[role_key], item[content_key]
    role = roles.get(str(role)) if roles else role
    if not isinstance(role, str) or role not in ROLES:
        raise BadRow("unknown role")
    if not isinstance(content, str):
        raise BadRow("content is not text")
    return {"role": role, "content": content}


def _alpaca(raw: Mapping[str, JsonValue]) -> list[Message]:
    instruction, more = raw.get("instruction"), raw.get("input") or ""
    output, system = raw.get("output"), raw.get("system")
    if not (isinstance(instruction, str) and isinstance(more, str) and isinstance(output, str)):
        raise BadRow("content is not text")
    prompt = "\n\n".join(part for part in (instruction, more) if part)
    turns: list[Message] = [{"role": "user", "content": prompt}, {"role": "assistant", "content": output}]
    return [{"role": "system", "content": system}, *turns] if isinstance(system, str) and system else turns


def _check(messages: Sequence[Message]) -> None:
    if not any(message["role"] == "assistant" for message in messages):
        raise BadRow("no assistant turn")
    if len(messages) > MOST_TURNS:
        raise BadRow(f"more than {MOST_TURNS:,} turns")
    if any(not message["content"].strip() for message in messages if message["role"] != "system"):
        raise BadRow("empty content")
    if any("\ud800" <= char <= "\udfff" for message in messages for char in message["content"]):
        raise BadRow("half a Unicode surrogate pair")


def _text(value: JsonValue) -> str | None:
    """Return a name for tables, logs and reports as one line of printable characters; None stays None."""
    if value is None:
        return None
    return one_line(str(value).encode("utf-8", "replace").decode())[:LONGEST_NAME]
