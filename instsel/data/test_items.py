"""Test rows: a prompt and its right answers, which are scored and never trained on or selected by."""

import json
import string
from dataclasses import asdict, dataclass
from typing import Any

from instsel.data.formats import parse_row
from instsel.data.keys import ROLE_KEYS, ROLES, TURN_LISTS
from instsel.data.messages import BadRow
from instsel.data.row_shapes import RowLayout


@dataclass(frozen=True)
class TestItem:
    """A prompt and its answers.

    Attributes:
        prompt: text of the user's turn.
        system: text of a system turn before it; empty without one.
        answers: right answers, at least one; any of them counts.
        choices: options of a question with options, where the row lists them.
        setup: Python source that a program starts with.
        tests: Python sources that it has to pass.
    """

    # Pytest takes classes of this name for tests.
    __test__ = False

    prompt: str
    system: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] | None
    setup: str = ""
    tests: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the item as a line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "TestItem":
        """Return the item that `to_json` wrote."""
        raw = json.loads(text)
        choices = None if raw["choices"] is None else tuple(raw["choices"])
        return cls(raw["prompt"], raw["system"], tuple(raw["answers"]), choices, raw["setup"], tuple(raw["tests"]))


def parse_item(line: bytes, layout: RowLayout) -> TestItem:
    """Parse one line of JSON: a row as in the pool; `answer`, one text or several, or the last turn is what is right.

    Args:
        line: JSON object in UTF-8.
        layout: as `formats.parse_row`.

    Raises:
        BadRow: the row cannot be used; the message is the reason.
    """
    raw = _object(line)
    answers = _answers(raw.get("answer"))
    key = _unanswered(raw, layout)
    ends_with_prompt = key is not None
    if key is not None and answers:
        raw = {**raw, key: [*raw[key], {"role": "assistant", "content": answers[0]}]}
    elif ends_with_prompt:
        raise BadRow("no `answer` and no assistant turn")
    row = parse_row(raw, layout=layout)
    *before, last = row.messages
    system = before.pop(0)["content"] if before and before[0]["role"] == "system" else ""
    if last["role"] != "assistant" or [message["role"] for message in before] != ["user"]:
        raise BadRow("more than one turn before the answer: a task asks in one user turn, after a system turn if any")
    if row.tools or last.get("tool_calls"):
        raise BadRow("tools or calls, which a task does not have")
    setup, tests = _tests(raw)
    # The number of an option, which the row has as its letter.
    is_number = not ends_with_prompt and row.choices and [each.isdecimal() for each in answers] == [True]
    right = (last["content"],) if is_number and last["content"] in string.ascii_uppercase else tuple(answers)
    choices = _texts(raw, "choices") if isinstance(raw.get("choices"), list) else tuple(row.choices) or None
    return TestItem(before[0]["content"], system, right or (last["content"],), choices, setup, tests)


def _object(line: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(line.decode("utf-8-sig"))
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise BadRow("not readable as JSON in UTF-8") from None
    if not isinstance(raw, dict):
        raise BadRow("not a JSON object")
    return raw


def _unanswered(raw: dict[str, Any], layout: RowLayout) -> str | None:
    """Return the key of a list of turns that ends with the user's; None if there is none."""
    named = layout.columns.get("messages")
    for key in (named,) if isinstance(named, str) else TURN_LISTS:
        turns = raw.get(key)
        last = turns[-1] if isinstance(turns, list) and turns else None
        names = [last.get(role) for role in ROLE_KEYS] if isinstance(last, dict) else []
        name = next((str(name) for name in names if name is not None), "")
        if "user" in (layout.roles.get(name), ROLES.get(name.strip().lower())):
            return key
    return None


def _answers(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    answers = [str(each) for each in values if isinstance(each, str | int | float) and not isinstance(each, bool)]
    if len(answers) != len(values) or any(not answer.strip() for answer in answers):
        raise BadRow("`answer` is not a text or a list of texts")
    return answers


def _texts(raw: dict[str, Any], key: str) -> tuple[str, ...] | None:
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) and each.strip() for each in value):
        raise BadRow(f"`{key}` is not a list of texts")
    return tuple(value)


def _tests(raw: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return what a program starts with, and its tests: `setup` and `tests`, or `meta` as MBPP and HumanEval have it.

    The prompt of HumanEval is the head of a function with its docstring: a whole function after it stands for itself, a
    body alone continues it.
    """
    meta = raw.get("meta")
    tests = _texts(raw, "tests")
    if tests is not None:
        return _text(raw.get("setup")), tests
    if not isinstance(meta, dict):
        return "", ()
    if isinstance(meta.get("test"), str) and isinstance(meta.get("entry_point"), str):
        return _text(meta.get("prompt")), (meta["test"], f"check({meta['entry_point']})")
    return _text(meta.get("test_setup_code")), _texts(meta, "test_list") or ()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
