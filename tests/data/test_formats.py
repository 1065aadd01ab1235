"""Rows in three formats: one conversation, one id; and a reason for each row that is none."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsel.data import formats as rows
from instsel.data.formats import Row, parse_row, row_id
from instsel.data.messages import BadRow, is_trained
from instsel.data.row_shapes import RowLayout

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
        ([[USER], [ANSWER]], "a JSON array, not an object with keys"),
        ([], "a JSON array, not an object with keys"),
        (None, "not a JSON object"),
        (b"{'instruction': 'x', 'output': 'y'}", "an object of Python, with single quotes, and not JSON"),
        ({}, "no turns and no prompt with an answer among its keys (none); name them under `columns`"),
        ({"ask": "a", "reply": None}, "no turns and no prompt with an answer among its keys (ask); name them"),
        ({"instruction": "a"}, "no turns and no prompt with an answer among its keys (instruction)"),
        ({"messages": None}, "no turns and no prompt with an answer among its keys (none)"),
        ({"text": "A novel."}, "`text` is text without turns"),
        ({"messages": []}, "`messages` is not a list of turns"),
        ({"messages": "Why?"}, "`messages` is text that is not JSON"),
        ({"conversations": {}}, "`conversations` is not a list of turns"),
        ({"messages": {"role": ["user", "assistant"], "content": ["a"]}}, "`messages` is not a list of turns"),
        ({"messages": [USER]}, "no assistant turn"),
        ({"conversations": TURNS[:1]}, "no assistant turn"),
        ({"messages": [USER, "Because."]}, "turn 2 is not an object with role and content"),
        ({"messages": [{"role": "user"}, ANSWER]}, "`content` is missing in turn 1 (user)"),
        ({"messages": [USER, {"content": "x"}]}, "no `role` or `from` in turn 2"),
        ({"messages": [{"role": ["user"], "content": "x"}, ANSWER]}, "no `role` or `from` in turn 1"),
        ({"messages": [{"role": None, "content": "x"}, ANSWER]}, "no `role` or `from` in turn 1"),
        ({"conversations": [*TURNS, {"from": "narrator", "value": "x"}]}, "unknown role 'narrator' in turn 3; name it"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "`content` is null in turn 2 (assistant)"),
        ({"messages": [{"role": "user", "content": {"a": 1}}, ANSWER]}, "`content` in turn 1 (user) is an object, not"),
        (b'{"instruction": "a", "output": NaN}', "`output` is NaN or infinite, not text"),
        ({"instruction": "a", "output": {"b": 1}}, "`output` is an object, not text"),
        ({"instruction": ["a"], "output": "b"}, "`instruction` is a list, not text"),
        ({"messages": [USER, {"role": "assistant", "content": " \n"}]}, "empty content in turn 2 (assistant)"),
        ({"messages": [{"role": "user", "content": ""}, ANSWER]}, "empty content in turn 1 (user)"),
        ({"instruction": "a", "output": ""}, "empty content in turn 2 (assistant)"),
        ({"instruction": "", "input": "", "output": "b"}, "empty content in turn 1 (user)"),
        ({**FORMS["messages"], "images": ["a.png"]}, "`images`: what it shows, a model of text cannot see"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]},
            "`content` has a part of type 'image_url' in turn 1 (user), not text",
        ),
        ({**FORMS["messages"], "tools": {"name": "f"}}, "`tools` is not a list of tools"),
        ({**FORMS["messages"], "tools": "none"}, "`tools` is text that is not JSON"),
        ({**FORMS["messages"], "tools": [3]}, "`tools` is not a list of tools"),
        (
            {"conversations": [*TURNS, {"from": "function_call", "value": "f(1)"}]},
            "`value` is text that is not JSON in turn 3",
        ),
        ({"messages": [USER, {**ANSWER, "tool_calls": [{"id": "1"}]}]}, "a call without a name in turn 2 (assistant)"),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, "loss marks keep every answer from being trained on"),
        ({**FORMS["messages"], "label": False}, "`label` is false: an unwanted answer"),
        ({"prompt": "q", "completion": "a", "label": "False"}, "`label` is false: an unwanted answer"),
        ({"prompt": "q", "completion": "a", "label": 0}, "`label` is false: an unwanted answer"),
        ({"instruction": "q", "output": "a", "kto_tag": " false"}, "`kto_tag` is false: an unwanted answer"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "`history` is not a list of questions and answers"),
        ({"question": "a", "choices": ["b", "c"], "answer": 2}, "`answer` is 2, and there are 2 choices, from 0"),
        (b'{"instruction": "a\\ud800", "output": "b"}', "half a Unicode surrogate pair"),
        (b'{"instruction": "a", "output": "b", "license": "\\ud800"}', "half a Unicode surrogate pair"),
        (b'{"instruction": "a", "output": "b", "tools": [{"name": "\\ud800"}]}', "half a Unicode surrogate pair"),
        ({**FORMS["messages"], "label": "False"}, "`label` is false: an unwanted answer"),
        ({**FORMS["alpaca"], "kto_tag": "false"}, "`kto_tag` is false: an unwanted answer"),
        (
            {"messages": [USER, {**ANSWER, "weight": 0.5}]},
            "loss mark `weight` is neither 0 or false nor 1 or true",
        ),
        ({"messages": [USER, {**ANSWER, "masked": True}]}, "loss marks keep every answer from being trained on"),
        (
            {"messages": [USER, {**ANSWER, "train_detail": [{"begin_offset": 0, "end_offset": 1, "train": False}]}]},
            "`train_detail` in turn 2 (assistant): an answer is trained on as a whole or not",
        ),
        ({"messages": [{**USER, "images": ["a.png"]}, ANSWER]}, "`images` in turn 1 (user): what it shows"),
        (
            {"messages": [{**USER, "content": "<image>\nWhat?"}, ANSWER]},
            "a place for a picture, sound or video in turn 1",
        ),
        ({"prompt": "Who speaks?<audio>", "response": "Ann."}, "a place for a picture, sound or video in turn 1"),
        ({"messages": [USER, {**ANSWER, "thinking": True}]}, "`thinking` in turn 2 (assistant) is not text"),
        (
            {"turns": ["Name a river.", "And a longer one?"]},
            "no turns and no prompt with an answer among its keys (turns)",
        ),
        ({"question": "a", "context": ["b"], "answer": "c"}, "`context` is a list, not text"),
    ],
)
def test_a_bad_row_has_a_reason(raw: Any, why: str) -> None:
    assert reason(raw).startswith(why)


@pytest.mark.parametrize(
    ("row_format", "raw", "why"),
    [
        ("messages", FORMS["sharegpt"], "`messages` is not a list of turns"),
        ("sharegpt", FORMS["messages"], "`conversations` is not a list of turns"),
        ("alpaca", FORMS["messages"], "not of format alpaca"),
        ("alpaca", {"prompt": "a", "completion": "b"}, "not of format alpaca"),
    ],
)
def test_a_format_that_is_asked_for_is_not_guessed(row_format: str, raw: dict[str, Any], why: str) -> None:
    assert reason(raw, row_format) == why


OTHER_FORMS: list[dict[str, Any]] = [
    {"prompt": "Why?", "completion": "Because 😀."},
    {"prompt": [USER], "completion": [ANSWER]},
    {"prompt": "Why?", "response": "Because 😀."},
    {"question": "Why?", "answer": "Because 😀."},
    {"query": "Why?", "response": "Because 😀."},
    {"inputs": "Why?", "targets": "Because 😀."},
    {"input": "Why?", "output": "Because 😀."},
    {"input": "Why?", "target": "Because 😀."},
    {"problem": "Why?", "solution": "Because 😀.", "answer": "😀"},
    {"instruction": "Why?", "context": "", "response": "Because 😀.", "category": "open_qa"},
    {"instruction": "Why?", "input": "", "output": "Because 😀.", "text": "Below is an instruction ..."},
    {"instruction": "Why?", "input": "", "output": ["Because 😀.", "No."]},
    {"instruction": "Why?", "output": "Because 😀.", "system": "", "history": []},
    {"conversations": [USER, ANSWER]},
    {"conversations": ["Why?", "Because 😀."]},
    {"messages": TURNS},
    {"messages": [{"role": "human", "value": "Why?"}, {"role": "model", "text": "Because 😀."}]},
    {"messages": json.dumps([USER, ANSWER])},
    {"messages": {"role": ["user", "assistant"], "content": ["Why?", "Because 😀."]}},
    {"messages": [[["role", "user"], ["content", "Why?"]], [["role", "assistant"], ["content", "Because 😀."]]]},
    {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "Because "}, "😀."]}]},
    *({key: [USER, ANSWER]} for key in ("conversation", "dialogue", "turns", "items")),
    {"messages": [json.dumps(USER), json.dumps(ANSWER)]},
    {"conversation": [{"input": "Why?", "output": "Because 😀."}]},
    {"messages": [{"role": "user", "parts": [{"text": "Why?"}]}, {"role": "CHATBOT", "message": "Because 😀."}]},
    {"messages": {"role": ["user", "assistant"], "content": ["Why?", "Because 😀."], "tool_calls": None}},
    {"messages": [{"from": None, "content": None, "role": "user", "value": "Why?"}, ANSWER]},
    {"prompt": json.dumps([USER]), "completion": json.dumps([ANSWER])},
    {"prompt": "Why?", "response": "Because 😀.", "turns": "1", "dialogue": "A talk.", "reasoning": True},
    {"prompt": "Why?", "chosen": json.dumps([USER, ANSWER]), "rejected": "[]"},
    {"instruction": "Why?", "output": "Because 😀.", "history": "[]", "images": "[]"},
    {"text": "### Human: Why?### Assistant: Because 😀."},
    {"prompt": "Why?", "chosen": "Because 😀.", "rejected": "No."},
    {"prompt": "Why?", "chosen": [USER, ANSWER], "rejected": [USER, USER]},
    {"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "No."}]},
    {"chosen": "\n\nHuman: Why?\n\nAssistant: Because 😀.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
    {"conversations": TURNS[:1], "chosen": TURNS[1], "rejected": {"from": "gpt", "value": "No."}},
    {"conversations": TURNS[:1], "chosen": [TURNS[1]], "rejected": [TURNS[1]]},
    {"messages": [USER, ANSWER], "label": True},
    {"messages": [USER, ANSWER], "tools": "[]", "images": []},
]


@pytest.mark.parametrize("raw", OTHER_FORMS, ids=lambda raw: "-".join(raw))
def test_forms_of_other_projects_are_the_same_row(raw: dict[str, Any]) -> None:
    assert parse(raw).id == row_id([USER, ANSWER])


@pytest.mark.parametrize(
    "raw", [raw for raw in OTHER_FORMS if "rejected" in raw or isinstance(raw.get("output"), list)]
)
def test_preference_rows_can_be_rejected(raw: dict[str, Any]) -> None:
    with pytest.raises(BadRow, match="a row of answers chosen and rejected"):
        parse_row(raw, layout=RowLayout(preference="reject"))


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *((name, "user") for name in ("human", "HUMAN", "User", "prompter")),
        *((name, "assistant") for name in ("gpt", "GPT", "model", "bot", "bing", "Assistant", "chatgpt")),
        *((name, "system") for name in ("system", "developer")),
        *((name, "tool") for name in ("tool", "function", "observation", "function-response", "ipython")),
    ],
)
def test_roles_have_many_names(name: str, role: str) -> None:
    row = parse({"messages": [{"role": name, "content": "x"}, USER, ANSWER]})
    assert [turn["role"] for turn in row.messages] == [role, "user", "assistant"]


def test_a_role_and_columns_of_the_user() -> None:
    raw = {"ask": "Why?", "reply": "Because 😀.", "about": "causes", "tone": "Be brief."}
    layout = RowLayout(columns={"prompt": "ask", "answer": "reply", "task": "about", "system": "tone"})
    row = parse_row(raw, layout=layout)
    assert row.messages == [{"role": "system", "content": "Be brief."}, USER, ANSWER]
    assert (row.task, row.extra) == ("causes", {})
    told = {"chat": [{"role": "narrator", "content": "Once."}, USER, ANSWER]}
    layout = RowLayout(columns={"messages": "chat"}, roles={"narrator": "system"})
    assert parse_row(told, layout=layout).messages[0] == {"role": "system", "content": "Once."}


def test_options_in_columns_are_written_under_the_question() -> None:
    raw = {"question": "Wet?", "A": "Sand", "B": "Water", "answer": "B"}
    layout = RowLayout(columns={"prompt": "question", "answer": "answer", "choices": ["A", "B"]})
    row = parse_row(raw, layout=layout)
    assert [turn["content"] for turn in row.messages] == ["Wet?\nA. Sand\nB. Water", "B"]
    assert row.choices == ["Sand", "Water"]
    assert parse_row(raw).messages == row.messages, "columns A, B, ... are known"


def test_the_number_of_a_choice_is_its_letter() -> None:
    row = parse({"question": "Wet?", "choices": ["Sand", "Water"], "answer": 1, "subject": "physics"})
    assert [turn["content"] for turn in row.messages] == ["Wet?\nA. Sand\nB. Water", "B"]
    assert row.extra == {"subject": "physics"}


def test_numbers_and_booleans_are_texts_as_json_writes_them() -> None:
    assert parse({"instruction": "2 + 2?", "output": 4}).messages[1]["content"] == "4"
    assert parse({"instruction": "Is it?", "input": 1.5, "output": True}).messages[1]["content"] == "true"


def test_a_history_goes_before_the_question() -> None:
    row = parse({"instruction": "And its capital?", "output": "Oslo.", "history": [["West of Sweden?", "Norway."]]})
    assert [turn["content"] for turn in row.messages] == ["West of Sweden?", "Norway.", "And its capital?", "Oslo."]


def test_the_first_of_several_answers_counts() -> None:
    row = parse({"instruction": "Add.", "input": "1 2", "output": ["3", "4"]})
    assert [turn["content"] for turn in row.messages] == ["Add.\n\n1 2", "3"]


def test_a_turn_of_question_and_answer_is_two_turns() -> None:
    raw = {
        "conversation": [{"system": "Be brief.", "input": "Why?", "output": "So."}, {"human": "And?", "assistant": 4}]
    }
    assert [(turn["role"], turn["content"]) for turn in parse(raw).messages] == [
        ("system", "Be brief."),
        ("user", "Why?"),
        ("assistant", "So."),
        ("user", "And?"),
        ("assistant", "4"),
    ]


def test_a_chosen_answer_ends_a_conversation_of_several_answers() -> None:
    raw = {"conversations": [*TURNS, TURNS[0]], "chosen": TURNS[1], "rejected": {"from": "gpt", "value": "No."}}
    assert parse(raw).messages == [USER, ANSWER, USER, ANSWER]


@pytest.mark.parametrize(
    ("raw", "question"),
    [
        ({"instruction": "Add.", "input": "1 2", "chosen": "3", "rejected": "4"}, "Add.\n\n1 2"),
        (
            {"question": "How many?", "context": "CREATE TABLE t (a INT)", "answer": "3"},
            "How many?\n\nCREATE TABLE t (a INT)",
        ),
        ({"prompt": "Add.", "input": "1 2", "output": "3"}, "Add.\n\n1 2"),
    ],
)
def test_a_text_that_belongs_to_a_prompt_follows_it(raw: dict[str, Any], question: str) -> None:
    row = parse(raw)
    assert [turn["content"] for turn in row.messages] == [question, "3"]
    assert row.extra == {}


def test_columns_of_the_user_leave_out_what_they_do_not_name() -> None:
    layout = RowLayout(columns={"prompt": "question", "answer": "answer"})
    row = parse_row({"question": "How many?", "context": ["a"], "answer": "3"}, layout=layout)
    assert row.messages[0]["content"] == "How many?"


@pytest.mark.parametrize("answer", ["1", 1])
def test_the_number_of_a_choice_may_be_text(answer: Any) -> None:
    layout = RowLayout(columns={"prompt": "ctx", "choices": "endings", "answer": "label"})
    row = parse_row({"ctx": "Wet?", "endings": ["Sand", "Water"], "label": answer}, layout=layout)
    assert row.messages[1]["content"] == "B"


def test_the_label_of_a_choice_is_its_letter() -> None:
    layout = RowLayout(columns={"prompt": "question", "choices": "choices", "answer": "answerKey"})
    raw = {"question": "Wet?", "choices": {"text": ["Sand", "Water"], "label": ["1", "2"]}, "answerKey": "2"}
    assert parse_row(raw, layout=layout).messages[1]["content"] == "B"


CALL = {"name": "add", "arguments": {"a": 4}}
ADDED = [USER, {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]}, ANSWER]
TOOL = {"name": "add", "description": "adds", "parameters": {}}


def test_calls_and_tools_are_kept_and_part_of_the_id() -> None:
    row = parse({"messages": ADDED, "tools": [TOOL]})
    assert (row.messages, row.tools) == (ADDED, [TOOL])
    other = [{"type": "function", "function": {**CALL, "arguments": {"a": 5}}}]
    ids = {
        parse(raw).id
        for raw in (
            {"messages": ADDED, "tools": [TOOL]},
            {"messages": ADDED},
            {"messages": ADDED, "tools": [{**TOOL, "name": "sub"}]},
            {"messages": [USER, {**ADDED[1], "tool_calls": other}, ANSWER], "tools": [TOOL]},
        )
    }
    assert len(ids) == 4


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "content": None, "tool_calls": json.dumps([CALL])},
        {"role": "assistant", "content": None, "function_call": CALL},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "function-call", "value": json.dumps([CALL])},
        {"from": "function_call", "value": json.dumps({"name": "add", "parameters": {"a": 4}})},
        {"role": "assistant", "tool_calls": [{"type": "function", "name": "add", "args": {"a": 4}}]},
    ],
)
def test_calls_are_written_in_several_ways(turn: dict[str, Any]) -> None:
    assert parse({"conversations": [USER, turn, ANSWER], "tools": json.dumps([TOOL])}).messages == ADDED


def test_arguments_as_text_are_the_same_row() -> None:
    as_text = [{"type": "function", "function": {**CALL, "arguments": json.dumps(CALL["arguments"])}}]
    row = parse({"messages": [USER, {**ADDED[1], "tool_calls": as_text}, ANSWER]})
    assert row.id == parse({"messages": ADDED}).id
    assert row.messages[1]["tool_calls"] == as_text, "kept as the row has them"


def test_tools_of_a_system_turn_are_the_rows() -> None:
    row = parse({"messages": [{"role": "system", "content": "", "tools": [TOOL]}, USER, ANSWER]})
    assert row.tools == [TOOL]
    assert row.id != parse({"messages": [{"role": "system", "content": ""}, USER, ANSWER]}).id


@pytest.mark.parametrize("content", ["", {"sum": 4}, [4, "four"]])
def test_what_a_tool_gave_back_is_kept(content: Any) -> None:
    row = parse({"messages": [*ADDED[:2], {"role": "tool", "content": content}, ANSWER]})
    assert row.messages[2] == {"role": "tool", "content": content}


def test_a_turn_keeps_its_other_keys() -> None:
    turn = {**ANSWER, "reasoning_content": "Hm.", "weight": 1, "rating": 5}
    row = parse({"messages": [USER, turn], "id": 7, "license": "MIT"})
    assert row.messages == [USER, turn]
    assert row.extra == {"id": 7, "license": "MIT"}
    assert row.id == row_id([USER, turn]) == row_id([USER, {**ANSWER, "reasoning_content": "Hm."}])
    assert row.id != row_id([USER, ANSWER])


def test_thoughts_of_a_row_belong_to_its_answer() -> None:
    row = parse({"instruction": "Why?", "reasoning": "Hm.", "output": "Because 😀."})
    assert row.messages[1] == {**ANSWER, "reasoning_content": "Hm."}
    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Because 😀."}]
    assert parse({"messages": [USER, {"role": "assistant", "content": parts}]}).messages == row.messages
    assert parse({"messages": [USER, {**ANSWER, "reasoning_content": parts[:1]}]}).messages == row.messages


@pytest.mark.parametrize(
    "mark",
    [
        *({"weight": 0}, {"loss": False}, {"train": False}, {"loss_weight": 0.0}),
        *({"train": "false"}, {"weight": "0"}, {"masked": True}, {"mask": 1}, {"loss_scale": 0.0}),
    ],
)
def test_an_answer_that_is_not_trained_on_is_another_row(mark: dict[str, Any]) -> None:
    marked = parse({"messages": [USER, {**ANSWER, **mark}, USER, ANSWER]})
    assert marked.id != row_id([USER, ANSWER, USER, ANSWER])
    assert is_trained(marked.messages[1]) is False and is_trained(marked.messages[3]) is None


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


def test_an_array_of_turns_is_a_conversation() -> None:
    row = parse_row(json.dumps([USER, ANSWER]).encode())
    assert row.messages == parse_row(json.dumps({"messages": [USER, ANSWER]}).encode()).messages
    assert [turn["role"] for turn in parse_row(json.dumps(TURNS).encode()).messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("question", "choices", "answer", "asked"),
    [
        ("Which?", ["x", "y"], "B", "Which?\nA. x\nB. y"),
        ("Which?", {"text": ["x", "y"], "label": ["A", "B"]}, "B", "Which?\nA. x\nB. y"),
        ("Which?\nA. x\nB. y", ["x", "y"], "B", "Which?\nA. x\nB. y"),
        ("Which?", ["A", "B"], "B", "Which?"),
        ("Which?", ["x", "y"], "y", "Which?"),
        ("Which?", ["x", "y"], "C", "Which?"),
    ],
)
def test_a_letter_is_no_answer_without_its_options(question: str, choices: Any, answer: str, asked: str) -> None:
    row = parse_row(json.dumps({"question": question, "choices": choices, "answer": answer}).encode())
    assert [turn["content"] for turn in row.messages] == [asked, answer]
