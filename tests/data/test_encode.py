"""Raw lines become tables of examples, and of rows set aside with file, line and reason."""

import copy
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from instsel.data.chat import IGNORED, encode
from instsel.data.contamination import SHARED_RUN, LeakIndex
from instsel.data.encode import (
    DUPLICATE,
    EXAMPLES,
    REJECTED,
    count_unread,
    encode_lines,
    first_occurrences,
    numeric_ids,
    reasons,
    reject,
    smallest_ids,
)
from instsel.data.formats import row_id
from instsel.data.messages import whole_turns
from instsel.data.row_shapes import RowLayout
from instsel.data.turns import EncodingOptions
from instsel.filters.registry import AnyFilter


def messages(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Q{number} é😀?"}, {"role": "assistant", "content": f"A {number}."}]


def line(number: int, **more: Any) -> bytes:
    return json.dumps({"messages": messages(number), **more}, ensure_ascii=False).encode()


def encoded(tokenizer: Any, lines: list[bytes], first: int = 1, **options: Any) -> tuple[pa.Table, pa.Table]:
    length = EncodingOptions(options.pop("max_length", 128))
    return encode_lines(lines, first, "a.jsonl", tokenizer=tokenizer, options=length, **options)


def test_a_line_becomes_an_example_with_all_that_is_known_of_it(tiny_tokenizer: Any) -> None:
    examples, rejected = encoded(tiny_tokenizer, [line(1, source="flan", task="law")], first=41)
    assert (examples.schema, len(rejected)) == (EXAMPLES, 0)
    expected = encode(tiny_tokenizer, messages(1), 128)
    assert examples.to_pylist() == [
        {
            "id": row_id(messages(1)),
            "source": "flan",
            "task": "law",
            "messages": messages(1),
            "turn_keys": None,
            "tools": None,
            "extra": None,
            "original_id": None,
            "choices": [],
            "input_ids": expected.input_ids,
            "labels": expected.labels,
            "tokens": len(expected.input_ids),
            "answer_tokens": expected.answer_tokens,
            "truncated": False,
            "dropped_reasoning": 0,
            "file": "a.jsonl",
            "line": 41,
        }
    ]


def test_bad_rows_are_set_aside_with_file_line_and_reason(tiny_tokenizer: Any) -> None:
    lines = [line(number) for number in range(1, 31)]
    lines[16] = b'{"messages": [{"role": "user", '
    lines[18] = b"\xff\xfe"
    lines[19] = b""
    lines[21] = json.dumps({"messages": messages(1)[:1]}).encode()
    lines[23] = json.dumps({"text": "é" * 500}, ensure_ascii=False).encode()
    lines[25] = json.dumps({"messages": [{"role": "user", "content": "long " * 200}, messages(1)[1]]}).encode()
    examples, rejected = encoded(tiny_tokenizer, lines)
    assert rejected.schema == REJECTED
    assert [tuple(row.values())[:3] for row in rejected.to_pylist()] == [
        ("a.jsonl", 17, "broken JSON at column 32"),
        ("a.jsonl", 19, "not UTF-8"),
        ("a.jsonl", 22, "no assistant turn"),
        ("a.jsonl", 24, "`text` is text without turns; answers are trained on, and nothing says which part is one"),
        ("a.jsonl", 26, "no answer token within max_length"),
    ]
    assert rejected["text"][0].as_py() == lines[16].decode()
    assert rejected["text"][1].as_py() == "\ufffd\ufffd"
    assert len(rejected["text"][3].as_py()) == 200
    assert examples["line"].to_pylist() == [n for n in range(1, 31) if n not in (17, 19, 20, 22, 24, 26)]


def test_truncation_is_told(tiny_tokenizer: Any) -> None:
    length = len(encode(tiny_tokenizer, messages(1), 128).input_ids)
    examples, _ = encoded(tiny_tokenizer, [line(1)], max_length=length - 2)
    assert (examples["truncated"].to_pylist(), examples["tokens"].to_pylist()) == ([True], [length - 2])


def test_a_row_that_is_refused_is_set_aside_with_the_refusal(tiny_tokenizer: Any) -> None:
    examples, rejected = encoded(
        tiny_tokenizer,
        [line(1), line(2), line(3)],
        reject_if=lambda rows: ["is two" if found == messages(2) else None for found in rows],
    )
    assert (rejected["line"].to_pylist(), rejected["reason"].to_pylist()) == ([2], ["is two"])
    assert examples["line"].to_pylist() == [1, 3]


@pytest.mark.parametrize(
    ("options", "row", "source"),
    [
        ({}, {}, ""),
        ({"default_source": "file"}, {}, "file"),
        ({"default_source": "file"}, {"source": "row"}, "row"),
        ({"default_source": "file", "source": "study"}, {"source": "row"}, "study"),
    ],
)
def test_the_study_names_a_source_before_the_row_and_the_row_before_the_file(
    options: dict[str, str], row: dict[str, str], source: str, tiny_tokenizer: Any
) -> None:
    assert encoded(tiny_tokenizer, [line(1, **row)], **options)[0]["source"].to_pylist() == [source]


def test_what_was_thought_is_looked_at_for_leaks_too(tiny_tokenizer: Any) -> None:
    """The text of a target may be quoted in a thought alone."""
    index = LeakIndex.of([[[{"role": "user", "content": " ".join(f"w{number}" for number in range(20))}]]], 13)
    question = {"role": "user", "content": "What do you make of it?"}
    rows = []
    for start in (0, 20):
        thought = " ".join(f"w{number}" for number in range(start, start + 20))
        answer = {"role": "assistant", "content": "It is fine.", "reasoning_content": thought}
        rows.append({"messages": [question, answer]})
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ message['content'] }}", "{{ message['reasoning_content'] or '' }}{{ message['content'] }}"
    )
    lines = [json.dumps(row).encode() for row in rows]
    kept, rejected = encoded(tokenizer, lines, reject_if=index.reasons)
    assert kept["line"].to_pylist() == [2]
    assert [(row["line"], row["reason"]) for row in rejected.to_pylist()] == [(1, SHARED_RUN)]


def test_the_task_is_the_column_that_is_asked_for(tiny_tokenizer: Any) -> None:
    rows = [line(1, task="a", subject="law"), line(2, task="b")]
    assert encoded(tiny_tokenizer, rows)[0]["task"].to_pylist() == ["a", "b"]
    assert encoded(tiny_tokenizer, rows, task_column="subject")[0]["task"].to_pylist() == ["law", None]


def test_the_format_that_is_asked_for_is_used(tiny_tokenizer: Any) -> None:
    both = json.dumps({"messages": messages(1), "instruction": "Add.", "output": "3"}).encode()
    assert encoded(tiny_tokenizer, [both])[0]["id"].to_pylist() == [row_id(messages(1))]
    alpaca, _ = encoded(tiny_tokenizer, [both], layout=RowLayout("alpaca"))
    assert alpaca["messages"].to_pylist()[0][0]["content"] == "Add."


def test_no_lines_give_empty_tables(tiny_tokenizer: Any) -> None:
    examples, rejected = encoded(tiny_tokenizer, [b"", b""])
    assert (examples, rejected) == (EXAMPLES.empty_table(), REJECTED.empty_table())


def test_the_rows_of_smallest_id_are_a_sample_that_depends_on_the_rows_alone(tiny_tokenizer: Any) -> None:
    examples, _ = encoded(tiny_tokenizer, [line(number) for number in range(12)])
    smallest = sorted(examples["id"].to_pylist())[:5]
    sample = smallest_ids(examples, 5)
    assert sorted(sample["id"].to_pylist()) == smallest
    assert sample["line"].to_pylist() == sorted(sample["line"].to_pylist())
    shuffled = examples.take(np.random.default_rng(0).permutation(12))
    assert set(smallest_ids(shuffled, 5)["id"].to_pylist()) == set(smallest)
    for all_of_them in (None, 12, 13):
        assert smallest_ids(examples, all_of_them) == examples


def test_first_occurrences_are_those_of_a_naive_search() -> None:
    ids = np.random.default_rng(0).integers(0, 40, 200).astype(np.uint64) * np.uint64(2**58 + 1)
    seen: set[int] = set()
    expected = [not (int(value) in seen or seen.add(int(value))) for value in ids]  # type: ignore[func-returns-value]
    assert first_occurrences(ids).tolist() == expected
    assert first_occurrences(ids[:0]).tolist() == []


def test_ids_as_numbers() -> None:
    ids = pa.chunked_array([["0000000000000000"], ["00000000000000ff", "ffffffffffffffff"]])
    found = numeric_ids(ids)
    assert (found.tolist(), found.dtype) == ([0, 255, 2**64 - 1], np.uint64)


def test_examples_can_be_set_aside_later(tiny_tokenizer: Any) -> None:
    examples, _ = encoded(tiny_tokenizer, [line(1), line(2)], first=5)
    rejected = reject(examples, DUPLICATE)
    assert rejected.schema == REJECTED
    assert rejected.to_pylist()[1] == {
        "file": "a.jsonl",
        "line": 6,
        "reason": DUPLICATE,
        "text": "Q2 é😀? A 2.",
    }
    assert reject(examples.slice(0, 0), DUPLICATE) == REJECTED.empty_table()


def test_reasons_are_counted_the_most_frequent_first() -> None:
    table = pa.table({"reason": ["b", "a", "a", "c", "a", "c"]})
    assert list(reasons(table).items()) == [("a", 3), ("c", 2), ("b", 1)]


CALLED = [
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "add"}}]},
    {"role": "tool", "content": "4"},
    {"role": "assistant", "content": "Four.", "weight": 1},
]
WITH_CALLS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}{% for c in m.tool_calls or [] %}"
    "[{{ c.function.name }}]{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_calls_are_trained_on_and_stored_as_the_row_has_them(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = WITH_CALLS
    row = {"id": 9, "messages": CALLED, "tools": [{"name": "add"}], "license": "MIT"}
    examples, rejected = encoded(tokenizer, [json.dumps(row).encode()])
    assert not len(rejected), rejected.to_pylist()
    (stored,) = examples.to_pylist()
    trained = tokenizer.decode([label for label in stored["labels"] if label != IGNORED])
    assert trained == "[add]<|im_end|>Four.<|im_end|>"
    assert [turn["content"] for turn in stored["messages"]] == ["2 + 2?", '{"name": "add"}', "4", "Four."]
    assert whole_turns(stored["messages"], stored["turn_keys"]) == CALLED
    assert (stored["original_id"], json.loads(stored["tools"])) == ("9", [{"name": "add"}])
    assert count_unread(examples) == {"license": 1}
    rated = {"messages": [{"role": "user", "content": "Why?"}, {**CALLED[-1], "rating": 5, "weight": 1}]}
    examples, _ = encoded(tokenizer, [json.dumps(rated).encode()])
    assert count_unread(examples) == {"turn.rating": 1}


def test_a_marked_answer_is_not_trained_on(tiny_tokenizer: Any) -> None:
    turns = [*messages(1), *messages(2)]
    turns[1] = {**turns[1], "weight": 0}
    examples, _ = encoded(tiny_tokenizer, [json.dumps({"messages": turns}).encode()])
    (stored,) = examples.to_pylist()
    trained = tiny_tokenizer.decode([label for label in stored["labels"] if label != IGNORED])
    assert "A 2." in trained and "A 1." not in trained


def test_filters_see_rows_and_their_tokens_before_they_are_cut(tiny_tokenizer: Any) -> None:
    filters = TypeAdapter(list[AnyFilter]).validate_python(
        [
            {"filter": "length", "unit": "tokens", "max": 60, "name": "fits"},
            {"filter": "column", "column": "n", "min": 2},
        ]
    )
    long = {"messages": [{"role": "user", "content": "long " * 20}, messages(1)[1]], "n": 5}
    lines = [line(1, n=1), line(2, n=2), json.dumps(long).encode(), line(3)]
    examples, rejected = encoded(tiny_tokenizer, lines, filters=filters)
    assert examples["line"].to_pylist() == [2]
    reasons = {row["line"]: row["reason"] for row in rejected.to_pylist()}
    assert reasons[3].startswith("filter fits: ")
    assert reasons[1].startswith("filter column: ") and reasons[4] == "filter column: no column 'n'"


def test_reasons_of_many_turns_are_counted_together() -> None:
    found = [f"empty content in turn {number} (user)" for number in range(12)]
    columns = {"file": ["a"] * 12, "line": list(range(12)), "reason": found, "text": [""] * 12}
    assert reasons(pa.table(columns, REJECTED)) == {"empty content in a turn (user)": 12}
