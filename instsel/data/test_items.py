"""Test rows: a prompt and its right answers, which are scored and never trained on or selected by."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from instsel.data.formats import Row, parse_row, read_object
from instsel.data.messages import BadRow
from instsel.data.row_shapes import NO_ANSWER, RowLayout, RowParts


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
    # Which of several answers comes first says nothing here.
    layout = replace(layout, preference="chosen")
    raw: dict[str, Any] = read_object(line)
    pair_key = RowParts(raw, layout).answer_key()
    key = pair_key if pair_key is not None and "answer" in layout.columns else "answer"
    if raw.get(key) is None and pair_key is not None and _is_texts(raw.get(pair_key)):
        key = pair_key
    answers = _answers(raw.get(key), key)
    if answers and pair_key is None:
        # Turns that end in the question get its answer.
        raw = {**raw, "chosen": answers[0]}
    elif answers and isinstance(raw[key], list):
        raw = {**raw, key: raw[key][0]}
    row = _parse(raw, layout)
    *before, last = row.messages
    system = before.pop(0)["content"] if before and before[0]["role"] == "system" else ""
    if last["role"] != "assistant" or [message["role"] for message in before] != ["user"]:
        raise BadRow("more than one turn before the answer: a task asks in one user turn, after a system turn if any")
    if row.tools or last.get("tool_calls"):
        raise BadRow("tools or calls, which a task does not have")
    if not answers or (key == pair_key and isinstance(raw[key], int)):
        # The number of an option is answered by its letter.
        answers[:1] = [last["content"]]
    setup, tests = _tests(raw)
    choices = _texts(raw, "choices") if isinstance(raw.get("choices"), list) else tuple(row.choices) or None
    return TestItem(before[0]["content"], system, tuple(answers), choices, setup, tests)


def _parse(raw: dict[str, Any], layout: RowLayout) -> Row:
    try:
        return parse_row(raw, layout=layout)
    except BadRow as error:
        if str(error) == NO_ANSWER:
            raise BadRow("no `answer` and no assistant turn") from None
        raise


def _is_texts(value: Any) -> bool:
    """Whether a value is a list of right answers, and not of turns."""
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)


def _answers(value: Any, key: str) -> list[str]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    answers = [str(each) for each in values if isinstance(each, str | int | float) and not isinstance(each, bool)]
    if len(answers) != len(values) or any(not answer.strip() for answer in answers):
        raise BadRow(f"`{key}` is not a text or a list of texts")
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
