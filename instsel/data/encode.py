"""Turn chunks of raw lines into a table of tokenised examples and one of rejected rows with their reasons."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from instsel.config.study import Data
from instsel.data.chat import Example, encode_batch, paused_collector, turn_form
from instsel.data.contamination import LEAKS
from instsel.data.formats import Row, parse_row
from instsel.data.keys import LOSS_MARKS, MASKS, READ_KEYS, SEEN, TOOLS
from instsel.data.messages import (
    STORED_MESSAGES,
    BadRow,
    Conversation,
    Message,
    Turn,
    TurnForm,
    has_tools,
    is_trained,
    other_keys,
    template_tools,
    template_turns,
    texts,
    thought_turns,
)
from instsel.data.row_shapes import RowLayout
from instsel.data.turns import Dialogue, EncodingOptions
from instsel.filters.base import Filter, FilterRow, is_filtered, rejections

EXAMPLES = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("task", pa.string()),
        ("messages", STORED_MESSAGES),
        # JSON: a turn's keys that `messages` leaves out, the tools of a row, and its other keys.
        ("turn_keys", pa.list_(pa.string())),
        ("tools", pa.string()),
        ("extra", pa.string()),
        ("original_id", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("tokens", pa.int32()),
        ("answer_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        # Turns whose reasoning the chat template leaves out.
        ("dropped_reasoning", pa.int32()),
        ("file", pa.string()),
        ("line", pa.int64()),
    ]
)


class StoredRow(Conversation):
    """A row of the pool or of a target with the columns `EXAMPLES`."""

    id: str
    source: str
    task: str | None
    turn_keys: list[str | None] | None
    tools: str | None
    extra: str | None
    original_id: str | None
    choices: list[str]
    input_ids: list[int]
    labels: list[int]
    tokens: int
    answer_tokens: int
    truncated: bool
    dropped_reasoning: int | None
    file: str
    line: int


REJECTED = pa.schema([("file", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("text", pa.string())])
SHOWN = 200
_TURN_KEYS = {"content", *SEEN, *LOSS_MARKS, *MASKS, *TOOLS}
_TURN = re.compile(r"\bturn \d+")
DUPLICATE = "exact duplicate of an earlier row"
NEAR_COPY = "near copy of an earlier row"


def encoding_options(data: Data) -> EncodingOptions:
    """Return how a study turns conversations into tokens and labels."""
    return EncodingOptions(
        data.max_length, data.train_on, data.reasoning, data.system, today=data.date, append_end=True
    )


@paused_collector()
def encode_lines(  # noqa: PLR0913
    lines: Sequence[bytes],
    first: int,
    file: str,
    *,
    tokenizer: Any,
    options: EncodingOptions,
    layout: RowLayout | None = None,
    source: str | None = None,
    default_source: str = "",
    task_column: str = "task",
    reject_if: Callable[[Sequence[list[Message]]], Sequence[str | None]] | None = None,
    filters: Sequence[Filter] = (),
) -> tuple[pa.Table, pa.Table]:
    """Parse, check and tokenise raw lines.

    Args:
        lines: JSON rows in UTF-8; blank ones are skipped.
        first: number of the first line in its file.
        file: the file's name for the tables.
        tokenizer: fast Hugging Face tokenizer with a chat template.
        options: how conversations become tokens and labels.
        layout: where rows have what.
        source: overrides the source of the rows.
        default_source: source of rows without one.
        task_column: column with the task.
        reject_if: called with the messages of many rows, and with what was thought before answers, of rows that have
            that; rows for which it returns a reason are rejected.
        filters: of rows, those that need no tokens before the others.

    Returns:
        Tables of schema EXAMPLES and REJECTED, in line order.
    """
    read = [_Line(number, line) for number, line in enumerate(lines, start=first) if line]
    for each in read:
        each.parse(layout, task_column)
    if reject_if is not None:
        _reject(read, texts, reject_if)
        _reject(read, thought_turns, reject_if)
    _filter([each for each in filters if not each.needs_tokens], read)
    _encode(read, tokenizer, options)
    _filter([each for each in filters if each.needs_tokens], read)
    kept: list[dict[str, Any]] = []
    rejected = []
    for each in read:
        where = {"file": file, "line": each.number}
        if each.row is None or each.example is None or each.reason is not None:
            text = each.line.decode("utf-8", "replace")[:SHOWN]
            rejected.append({**where, "reason": each.reason, "text": text})
        else:
            name = source or each.row.source or default_source
            kept.append({**_stored(each.row, each.example), "source": name, **where})
    return pa.Table.from_pylist(kept, schema=EXAMPLES), pa.Table.from_pylist(rejected, schema=REJECTED)


@dataclass
class _Line:
    """A line of a file on its way to an example; with a reason it goes no further."""

    number: int
    line: bytes
    row: Row | None = None
    example: Example | None = None
    reason: str | None = None

    def parse(self, layout: RowLayout | None, task_column: str) -> None:
        try:
            self.row = parse_row(self.line, layout=layout, task_column=task_column)
        except BadRow as error:
            self.reason = str(error)


def _reject(
    read: Sequence[_Line],
    messages_of: Callable[[Sequence[Turn]], list[Message]],
    reject_if: Callable[[Sequence[list[Message]]], Sequence[str | None]],
) -> None:
    parts = [(each, messages_of(each.row.messages)) for each in read if each.row is not None and each.reason is None]
    parts = [(each, messages) for each, messages in parts if messages]
    for (each, _), reason in zip(parts, reject_if([messages for _, messages in parts]), strict=True):
        each.reason = reason


def _encode(read: Sequence[_Line], tokenizer: Any, options: EncodingOptions) -> None:
    rows = [(each, each.row) for each in read if each.row is not None and each.reason is None]
    dialogues = [
        Dialogue(
            template_turns(row.messages, turn_form(tokenizer, row.tools) if has_tools(row.messages) else TurnForm()),
            template_tools(row.tools),
            list(map(is_trained, row.messages)),
        )
        for _, row in rows
    ]
    for (each, _), example in zip(rows, encode_batch(tokenizer, dialogues, options), strict=True):
        if isinstance(example, BadRow):
            each.reason = str(example)
        else:
            each.example = example


def _filter(filters: Sequence[Filter], read: Sequence[_Line]) -> None:
    rows = [(each, each.row) for each in read if each.row is not None and each.reason is None]
    if not filters or not rows:
        return
    views = [
        FilterRow(
            row.messages,
            {**row.extra, "source": row.source, "task": row.task},
            each.example.length if each.example else None,
            each.example.answer_tokens if each.example else None,
        )
        for each, row in rows
    ]
    for (each, _), reason in zip(rows, rejections(filters, views), strict=True):
        each.reason = reason


def _stored(row: Row, example: Example) -> dict[str, Any]:
    return {
        "id": row.id,
        "task": row.task,
        "messages": texts(row.messages),
        "turn_keys": other_keys(row.messages),
        "tools": _json(row.tools),
        "extra": _json(row.extra),
        "original_id": row.original_id,
        "choices": row.choices,
        "input_ids": example.input_ids,
        "labels": example.labels,
        "tokens": len(example.input_ids),
        "answer_tokens": example.answer_tokens,
        "truncated": example.truncated,
        "dropped_reasoning": example.dropped_reasoning,
    }


def _json(value: object) -> str | None:
    return json.dumps(value, ensure_ascii=False) if value else None


def smallest_ids(examples: pa.Table, count: int | None) -> pa.Table:
    """Return the `count` rows with the smallest ids, in order: a uniform sample determined by the rows."""
    if count is None or len(examples) <= count:
        return examples
    ids = np.asarray(examples["id"].to_pylist())
    return examples.take(np.sort(np.argsort(ids, kind="stable")[:count]))


def first_occurrences(ids: np.ndarray) -> np.ndarray:
    """Return a mask, bool (n,), of the ids (uint64) that did not occur earlier."""
    mask = np.zeros(len(ids), dtype=bool)
    mask[np.unique(ids, return_index=True)[1]] = True
    return mask


def numeric_ids(ids: pa.ChunkedArray) -> np.ndarray:
    """Convert row ids, 16 hex digits, to uint64."""
    return np.fromiter((int(text, 16) for text in ids.to_pylist()), dtype=np.uint64, count=len(ids))


def reject(examples: pa.Table, reason: str) -> pa.Table:
    """Convert examples to rows of the table REJECTED."""
    texts = [" ".join(m["content"] for m in messages)[:SHOWN] for messages in examples["messages"].to_pylist()]
    columns = [
        examples["file"],
        examples["line"],
        pa.array([reason] * len(examples), pa.string()),
        pa.array(texts, pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=REJECTED)


def reasons(rejected: pa.Table) -> dict[str, int]:
    """Count the reasons by their kind, the most frequent first."""
    counts = Counter[str]()
    for group in rejected.group_by("reason").aggregate([([], "count_all")]).to_pylist():
        counts[reason_kind(group["reason"])] += group["count_all"]
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def near_copy_reason(kept: str) -> str:
    """Return why a near-copy is rejected: it names the id of the row that stays."""
    return f"near copy of row {kept}"


def reason_kind(reason: str) -> str:
    """Return what a reason is counted as: whatever turn and whatever row it names."""
    return NEAR_COPY if reason.startswith(near_copy_reason("")) else _TURN.sub("a turn", reason)


def was_readable(reason: str) -> bool:
    """Return whether a row was rejected for what it says, and not because nothing could be made of it."""
    return reason in (DUPLICATE, NEAR_COPY, *LEAKS) or is_filtered(reason)


def count_unread(examples: pa.Table) -> dict[str, int]:
    """Count the rows that have a key which no training sees, by key; `turn.NAME` is a key of turns.

    Nothing reads it, or it is reasoning that the chat template leaves out, `turn.reasoning`.
    """
    counts = Counter(key for extra in examples["extra"].to_pylist() if extra for key in json.loads(extra))
    of_rows = {key: counts[key] for key in sorted(counts) if key not in READ_KEYS}
    of_turns = Counter[str]()
    for lines in examples["turn_keys"].to_pylist():
        of_turns.update({key for line in lines or [] if line for key in json.loads(line)})
    without_reasoning = sum(bool(turns) for turns in examples["dropped_reasoning"].to_pylist())
    of_template = {"turn.reasoning": without_reasoning} if without_reasoning else {}
    return of_rows | {f"turn.{key}": of_turns[key] for key in sorted(of_turns) if key not in _TURN_KEYS} | of_template
