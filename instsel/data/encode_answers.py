"""The answers to each prompt of a target, the right one first, as tokenised examples without end marks."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import pyarrow as pa

from instsel.data.chat import encode_answer, turn_form
from instsel.data.messages import (
    BadRow,
    Message,
    Turn,
    TurnForm,
    has_tools,
    template_tools,
    template_turns,
    whole_turns,
)
from instsel.data.other_answers import AnsweredItem, other_answers
from instsel.data.turns import EncodingOptions

ANSWERS = pa.schema(
    [
        ("id", pa.string()),
        ("row", pa.string()),
        ("answer", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("tokens", pa.int32()),
    ]
)
ROW = ["id", "task", "messages", "turn_keys", "tools", "choices"]
"""Columns of a target's rows that answers are made of."""

NO_OTHER = "no other answer"
IS_CALL = "the answer is a call, which has no others"


@dataclass(frozen=True)
class Draw:
    """How other answers are drawn: the most for an item, the seed, and whether a task's items keep to their own."""

    count: int
    seed: int
    by_task: bool


class _Row(TypedDict):
    id: str
    task: str | None
    messages: list[Message]
    turn_keys: list[str | None] | None
    tools: str | None
    choices: list[str] | None


def encode_answers(
    rows: pa.Table, tokenizer: Any, options: EncodingOptions, draw: Draw
) -> tuple[pa.Table, dict[str, str]]:
    """Tokenise the right answer of each row and others to the same prompt; only the words of answers have labels.

    The answer is the last turn of the assistant; what comes after it is left out.

    Args:
        rows: of a target, with the columns `ROW`.
        tokenizer: fast Hugging Face tokenizer with a chat template.
        options: how conversations become tokens and labels.
        draw: of the other answers.

    Returns:
        A table of schema ANSWERS, row after row, the right answer of each first: `row` is its id, `id` that
        with the number of the answer. And the rows that are left out, id -> reason: those without another answer, and
        those that cannot be tokenised so.
    """
    every = [_Parsed.of(row, draw.by_task) for row in rows.select(ROW).to_pylist()]
    parsed = [row for row in every if not row.is_call]
    others = other_answers([row.item for row in parsed], draw.count, draw.seed)
    lines: list[dict[str, object]] = []
    rejected = {row.item.id: IS_CALL for row in every if row.is_call}
    for row, texts in zip(parsed, others, strict=True):
        before = template_turns(row.before, turn_form(tokenizer, row.tools) if has_tools(row.before) else TurnForm())
        encoded = []
        for number, text in enumerate([row.item.answer, *texts]):
            turns = [*before, {"role": "assistant", "content": text}]
            try:
                example = encode_answer(tokenizer, turns, None, tools=row.tools, options=options)
            except BadRow as error:
                if number == 0:
                    rejected[row.item.id] = str(error)
                    break
                continue
            line = {"id": f"{row.item.id}-{number}", "row": row.item.id, "answer": text}
            tokens = {"input_ids": example.input_ids, "labels": example.labels, "tokens": len(example.input_ids)}
            encoded.append({**line, **tokens})
        if len(encoded) > 1:
            lines += encoded
        else:
            rejected.setdefault(row.item.id, NO_OTHER)
    return pa.Table.from_pylist(lines, ANSWERS), rejected


@dataclass(frozen=True)
class _Parsed:
    """A row whose answer may be exchanged: the turns before it, the item, and whether the answer is a call."""

    before: Sequence[Turn]
    tools: list[Any] | None
    item: AnsweredItem
    is_call: bool

    @classmethod
    def of(cls, row: _Row, by_task: bool) -> "_Parsed":
        messages = row["messages"]
        last = max(number for number, message in enumerate(messages) if message["role"] == "assistant")
        turns = whole_turns(messages, row["turn_keys"])
        tools = template_tools(None if row["tools"] is None else json.loads(row["tools"]))
        prompts = [message["content"] for message in messages[:last] if message["role"] == "user"]
        group = (row["task"] or "") if by_task else ""
        prompt, answer = prompts[-1] if prompts else "", messages[last]["content"]
        item = AnsweredItem(row["id"], group, prompt, answer, row["choices"] or ())
        return cls(turns[:last], tools, item, bool(turns[last].get("tool_calls")))
