"""Answers of a target's rows as examples: the right one first, words alone marked, rows without another left out."""

import json
from typing import Any

import pyarrow as pa

from instsel.data.chat import IGNORED
from instsel.data.encode import EXAMPLES
from instsel.data.encode_answers import ANSWERS, IS_CALL, NO_OTHER, ROW, Draw, encode_answers
from instsel.data.turns import EncodingOptions

LONG = EncodingOptions(1000)
LINES = pa.schema([EXAMPLES.field(name) for name in ROW])


def rows(*lines: tuple[str, str, str, list[str]]) -> pa.Table:
    """Rows of id, task, answer and choices."""
    made = []
    for row, task, answer, choices in lines:
        turns = [{"role": "user", "content": f"Item {row}?"}, {"role": "assistant", "content": answer}]
        made.append({"id": row, "task": task, "messages": turns, "choices": choices})
    return pa.Table.from_pylist(made, LINES)


def words(tokenizer: Any, line: dict[str, Any]) -> str:
    return str(tokenizer.decode([label for label in line["labels"] if label != IGNORED]))


def test_the_right_answer_comes_first_and_only_words_are_marked(tiny_tokenizer: Any) -> None:
    table, rejected = encode_answers(
        rows(("r1", "a", "Oslo", []), ("r2", "a", "Rome", ["Rome", "Bern", "Lima"])),
        tiny_tokenizer,
        LONG,
        Draw(4, 0, False),
    )
    assert (table.schema, rejected) == (ANSWERS, {})
    lines = table.to_pylist()
    assert [(line["id"], line["row"]) for line in lines] == [
        ("r1-0", "r1"), ("r1-1", "r1"), ("r2-0", "r2"), ("r2-1", "r2"), ("r2-2", "r2"),
    ]  # fmt: skip
    assert [line["answer"] for line in lines[:3]] == ["Oslo", "Rome", "Rome"]
    assert sorted(line["answer"] for line in lines[3:]) == ["Bern", "Lima"]
    for line in lines:
        assert words(tiny_tokenizer, line) == line["answer"]
        assert line["tokens"] == len(line["input_ids"]) == len(line["labels"])
        assert f"Item {line['row']}?" in tiny_tokenizer.decode(line["input_ids"])


def test_tasks_keep_to_their_own_answers_only_if_they_divide_the_target(tiny_tokenizer: Any) -> None:
    lines = rows(("r1", "a", "Oslo", []), ("r2", "b", "Rome", []), ("r3", "b", "Bern", []))
    by_task, rejected = encode_answers(lines, tiny_tokenizer, LONG, Draw(4, 0, by_task=True))
    assert rejected == {"r1": NO_OTHER}
    assert by_task["row"].to_pylist() == ["r2", "r2", "r3", "r3"]
    together, rejected = encode_answers(lines, tiny_tokenizer, LONG, Draw(4, 0, by_task=False))
    assert (rejected, len(together)) == ({}, 9)


def test_rows_that_are_cut_off_before_their_answer_are_left_out_with_the_reason(tiny_tokenizer: Any) -> None:
    table, rejected = encode_answers(
        rows(("r1", "a", "Oslo", []), ("r2", "a", "Rome", [])), tiny_tokenizer, EncodingOptions(3), Draw(4, 0, False)
    )
    assert len(table) == 0 and set(rejected) == {"r1", "r2"}
    assert rejected["r1"] == "no answer token within max_length"


def test_an_answer_with_a_special_token_is_not_drawn(tiny_tokenizer: Any) -> None:
    choices = ["Rome", "<|im_end|>", "Bern"]
    table, _ = encode_answers(rows(("r1", "a", "Rome", choices)), tiny_tokenizer, LONG, Draw(4, 0, False))
    assert table["answer"].to_pylist() == ["Rome", "Bern"]


def test_what_follows_the_last_answer_is_left_out(tiny_tokenizer: Any) -> None:
    turns = [("user", "Why?"), ("assistant", "Oslo"), ("user", "Thanks")]
    messages = [{"role": role, "content": content} for role, content in turns]
    lines = [{"id": "r1", "task": None, "messages": messages, "choices": ["Oslo", "Bern"]}]
    table, _ = encode_answers(pa.Table.from_pylist(lines, LINES), tiny_tokenizer, LONG, Draw(4, 0, False))
    assert table["answer"].to_pylist() == ["Oslo", "Bern"]
    assert "Thanks" not in tiny_tokenizer.decode(table["input_ids"][0].as_py())


def test_a_call_has_no_other_answers_and_is_none(tiny_tokenizer: Any) -> None:
    lines = rows(("r1", "a", "Oslo", []), ("r2", "a", "Rome", []), ("r3", "a", '{"name": "look"}', [])).to_pylist()
    called = {"content": None, "tool_calls": [{"type": "function", "function": {"name": "look"}}]}
    lines[2]["turn_keys"] = [None, json.dumps(called)]
    table, rejected = encode_answers(pa.Table.from_pylist(lines, LINES), tiny_tokenizer, LONG, Draw(4, 0, False))
    assert rejected == {"r3": IS_CALL}
    assert set(table["answer"].to_pylist()) == {"Oslo", "Rome"}
