"""Rows in three formats: one conversation, one id; and a reason for each row that is none."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsel.data import formats as rows
from instsel.data.formats import BadRow, Row, parse_row, row_id

USER, ANSWER = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because 😀."}
TURNS = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because 😀."}]


def parse(raw: Any, row_format: Any = "auto", **options: Any) -> Row:
    line = raw if isinstance(raw, bytes) else json.dumps(raw, ensure_ascii=False).encode()
    return parse_row(line, row_format, **options)


def reason(raw: Any, row_format: Any = "auto") -> str:
    with pytest.raises(BadRow) as error:
        parse(raw, row_format)
    return str(error.value)


FORMS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [USER, ANSWER]},
    "sharegpt": {"conversations": TURNS},
    "alpaca": {"instruction": "Why?", "input": "", "output": "Because 😀."},
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("auto", [True, False])
def test_the_three_forms_of_one_conversation_are_one_row(name: str, auto: bool) -> None:
    row = parse(FORMS[name], "auto" if auto else name)
    assert row == Row(row_id([USER, ANSWER]), [USER, ANSWER], None, None)


def test_ids_stay_the_same_over_versions() -> None:
    content = '[["user", "Why?"], ["assistant", "Because 😀."]]'
    assert row_id([USER, ANSWER]) == hashlib.sha256(content.encode()).hexdigest()[:16] == "c450f14025179915"


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text()), min_size=1, max_size=4))
def test_ids_are_those_of_roles_and_contents(turns: list[tuple[str, str]]) -> None:
    try:
        messages = [{"role": role, "content": content} for role, content in turns]
        messages.append(ANSWER)
        row = parse({"id": 3, "messages": [{**m, "weight": 1} for m in messages], "source": "s"})
    except BadRow:
        return
    roles = {"user": "human", "assistant": "gpt"}
    turns_again = [{"value": m["content"], "from": roles[m["role"]]} for m in messages]
    assert parse({"conversations": turns_again}).id == row.id == row_id(messages)
    assert row_id([*messages, USER]) != row.id
    swapped = [{**messages[0], "role": "tool"}, *messages[1:]]
    assert row_id(swapped) != row.id


def test_where_a_text_is_split_is_part_of_the_id() -> None:
    assert row_id([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]) != row_id(
        [{"role": "user", "content": 'a"], ["user", "b'}]
    )


def test_an_alpaca_input_follows_the_instruction() -> None:
    row = parse({"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be brief."})
    assert [(m["role"], m["content"]) for m in row.messages] == [
        ("system", "Be brief."),
        ("user", "Add.\n\n1 2"),
        ("assistant", "3"),
    ]
    assert parse({"instruction": "", "input": "1 2", "output": "3"}).messages[0]["content"] == "1 2"
    assert parse({"instruction": "Add.", "input": None, "output": "3"}).messages[0]["content"] == "Add."


@pytest.mark.parametrize(
    ("role", "known"),
    [
        ("human", "user"),
        ("chatgpt", "assistant"),
        ("assistant", "assistant"),
        ("system", "system"),
        ("observation", "tool"),
    ],
)
def test_sharegpt_roles_have_their_names(role: str, known: str) -> None:
    row = parse({"conversations": [{"from": role, "value": "x"}, *TURNS], "system": "Be brief."})
    assert [m["role"] for m in row.messages] == ["system", known, "user", "assistant"]


def test_a_row_of_parquet_has_the_columns_of_other_formats_empty() -> None:
    empty = {"messages": None, "conversations": None, "instruction": None, "input": None, "output": None}
    assert len({parse({**empty, **form}).id for form in FORMS.values()}) == 1


def test_source_and_task_are_text_or_nothing() -> None:
    row = parse({**FORMS["messages"], "source": "flan", "task": 3, "subject": "law"})
    assert (row.source, row.task) == ("flan", "3")
    assert parse({**FORMS["messages"], "subject": "law"}, task_column="subject").task == "law"
    assert parse(b'{"instruction": "a", "output": "b", "source": "x\\ud800"}').source == "x?"


def test_a_byte_order_mark_is_no_part_of_the_row() -> None:
    assert parse(b"\xef\xbb\xbf" + json.dumps(FORMS["messages"]).encode()).messages == [USER, ANSWER]


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'{"messages": [', "broken JSON at column 15"),
        (b"", "broken JSON at column 1"),
        (b"[" * 200_000, "JSON that is nested too deep or has too long a number"),
        (b'{"messages": ' + b"9" * 5000 + b"}", "JSON that is nested too deep or has too long a number"),
        (json.dumps(FORMS["messages"], ensure_ascii=False).encode("latin-1", "replace") + b"\xe9", "not UTF-8"),
        (json.dumps({"messages": [USER, ANSWER]}).encode("utf-16"), "not UTF-8"),
        ([USER, ANSWER], "not a JSON object"),
        (None, "not a JSON object"),
        ({}, "none of the formats: needs `messages`, `conversations`, or `instruction` and `output`"),
        (
            {"prompt": "a", "completion": "b"},
            "none of the formats: needs `messages`, `conversations`, or `instruction`",
        ),
        ({"instruction": "a"}, "none of the formats"),
        ({"messages": None}, "none of the formats"),
        ({"messages": []}, "`messages` is not a list of turns"),
        ({"messages": "Why?"}, "`messages` is not a list of turns"),
        ({"conversations": {}}, "`conversations` is not a list of turns"),
        ({"messages": [USER]}, "no assistant turn"),
        ({"conversations": TURNS[:1]}, "no assistant turn"),
        ({"messages": [USER, "Because."]}, "a turn without `role` and `content`"),
        ({"messages": [{"role": "user"}, ANSWER]}, "a turn without `role` and `content`"),
        ({"messages": TURNS}, "a turn without `role` and `content`"),
        ({"conversations": [USER, ANSWER]}, "a turn without `from` and `value`"),
        ({"messages": [{"role": "human", "content": "x"}, ANSWER]}, "unknown role"),
        ({"messages": [{"role": ["user"], "content": "x"}, ANSWER]}, "unknown role"),
        ({"messages": [{"role": None, "content": "x"}, ANSWER]}, "unknown role"),
        ({"conversations": [{"from": "narrator", "value": "x"}, *TURNS]}, "unknown role"),
        ({"messages": [{"role": "user", "content": ["x"]}, ANSWER]}, "content is not text"),
        ({"messages": [{"role": "user", "content": None}, ANSWER]}, "content is not text"),
        ({"instruction": "a", "output": 3}, "content is not text"),
        ({"instruction": "a", "input": 3, "output": "b"}, "content is not text"),
        ({"messages": [USER, {"role": "assistant", "content": " \n"}]}, "empty content"),
        ({"messages": [{"role": "user", "content": ""}, ANSWER]}, "empty content"),
        ({"instruction": "a", "output": ""}, "empty content"),
        ({"instruction": "", "input": "", "output": "b"}, "empty content"),
        (b'{"instruction": "a\\ud800", "output": "b"}', "half a Unicode surrogate pair"),
    ],
)
def test_a_bad_row_has_a_reason(raw: Any, why: str) -> None:
    assert reason(raw).startswith(why)


@pytest.mark.parametrize(
    ("row_format", "raw", "why"),
    [
        ("messages", FORMS["sharegpt"], "`messages` is not a list of turns"),
        ("sharegpt", FORMS["messages"], "`conversations` is not a list of turns"),
        ("alpaca", FORMS["messages"], "content is not text"),
    ],
)
def test_a_format_that_is_asked_for_is_not_guessed(row_format: str, raw: dict[str, Any], why: str) -> None:
    assert reason(raw, row_format) == why


def test_an_empty_system_turn_is_no_reason() -> None:
    assert len(parse({"messages": [{"role": "system", "content": ""}, USER, ANSWER]}).messages) == 3


def test_a_row_without_end_is_a_reason() -> None:
    long = {"messages": [USER, {"role": "assistant", "content": "a" * rows.MOST_BYTES}]}
    assert reason(long) == "longer than 16 MiB"
    assert reason({"messages": [USER, ANSWER] * 501}) == "more than 1,000 turns"
    assert len(parse({"messages": [USER, ANSWER] * 500}).messages) == 1000
    assert reason(b'{"messages": ' + b"[" * 100_000) == "JSON that is nested too deep or has too long a number"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a\nb  c\t", "a b c"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("x" * 5000, "x" * 1000),
        ({"a": ["b"]}, "{'a': ['b']}"),
    ],
)
def test_a_name_is_one_line_of_printable_signs(given: Any, name: str) -> None:
    row = parse({"messages": [USER, ANSWER], "source": given, "task": given})
    assert (row.source, row.task) == (name, name)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_row_or_have_a_reason(line: bytes) -> None:
    try:
        parse_row(line, "auto")
    except BadRow as error:
        assert str(error)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["user", "assistant"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["messages", "conversations", "role", "content", "from", "value", "instruction", "output"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON, st.sampled_from(["auto", "messages", "sharegpt", "alpaca"]))
def test_any_json_is_a_row_or_has_a_reason(raw: Any, row_format: Any) -> None:
    try:
        row = parse(json.dumps(raw).encode(), row_format)
    except BadRow as error:
        assert str(error)
        return
    assert any(m["role"] == "assistant" for m in row.messages)
