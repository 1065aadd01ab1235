"""Test rows: what is asked, what is right, and what a program has to pass."""

import json
from typing import Any

import pytest

from instsel.data.messages import BadRow
from instsel.data.row_shapes import RowLayout
from instsel.data.test_items import TestItem, parse_item

USER = {"role": "user", "content": "How many?"}


def parsed(**row: Any) -> TestItem:
    return parse_item(json.dumps({"messages": [USER], **row}).encode(), RowLayout())


def test_an_answer_is_a_text_a_number_or_several_texts():
    assert parsed(answer="9").answers == ("9",)
    assert parsed(answer=9).answers == ("9",)
    assert parsed(answer=["nine", "9"]).answers == ("nine", "9")


def test_without_answer_the_last_turn_is_right():
    item = parsed(messages=[{"role": "system", "content": "Count."}, USER, {"role": "assistant", "content": "9"}])
    assert item == TestItem("How many?", "Count.", ("9",), None)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Wet?", "choices": ["Sand", "Water"], "answer": 1},
        {"question": "Wet?", "A": "Sand", "B": "Water", "answer": "B"},
    ],
)
def test_the_number_of_an_option_is_its_letter(row: dict[str, Any]):
    item = parse_item(json.dumps(row).encode(), RowLayout())
    assert item == TestItem("Wet?\nA. Sand\nB. Water", "", ("B",), ("Sand", "Water"))


@pytest.mark.parametrize(
    "turns",
    [
        {"conversations": [{"from": "human", "value": "How many?"}]},
        {"messages": [{"role": "Human", "content": "How many?"}]},
        {"chat": [{"role": "pupil", "content": "How many?"}]},
    ],
)
def test_a_question_may_stand_in_any_shape(turns: dict[str, Any]):
    columns: dict[Any, str] = {"messages": "chat"} if "chat" in turns else {}
    layout = RowLayout(columns=columns, roles={"pupil": "user"})
    item = parse_item(json.dumps({**turns, "answer": ["nine", "9"]}).encode(), layout)
    assert (item.prompt, item.answers) == ("How many?", ("nine", "9"))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "no `answer` and no assistant turn"),
        ({"answer": " "}, "`answer` is not a text"),
        ({"answer": True}, "`answer` is not a text"),
        ({"answer": "9", "tools": [{"name": "count"}]}, "tools or calls, which a task does not have"),
        ({"answer": "9", "choices": ["a", 1]}, "`choices` is not a list of texts"),
        ({"answer": "9", "tests": "assert True"}, "`tests` is not a list of texts"),
        ({"answer": "9", "messages": [USER, {"role": "assistant", "content": "?"}, USER]}, "more than one turn"),
    ],
)
def test_what_cannot_be_scored_is_rejected_with_its_reason(row: dict[str, Any], reason: str):
    with pytest.raises(BadRow, match=reason):
        parsed(**row)


def test_tests_of_a_program_are_the_rows_own_or_those_of_mbpp_or_humaneval():
    own = parsed(answer="x", tests=["assert x"], setup="import math")
    assert (own.setup, own.tests) == ("import math", ("assert x",))
    mbpp = parsed(answer="x", meta={"test_list": ["assert a", "assert b"], "test_setup_code": "b = 1"})
    assert (mbpp.setup, mbpp.tests) == ("b = 1", ("assert a", "assert b"))
    head = 'def f():\n    """One."""\n'
    human = parsed(answer="x", meta={"prompt": head, "test": "def check(f): pass", "entry_point": "f"})
    assert (human.setup, human.tests) == (head, ("def check(f): pass", "check(f)"))
    assert parsed(answer="x", meta={"level": 1}).tests == ()


def test_an_item_is_read_as_it_was_written():
    item = parsed(answer=["9", "Ω"], choices=["9", "8"], tests=["assert 1"], setup="x = 1")
    assert TestItem.from_json(item.to_json()) == item


@pytest.mark.parametrize(
    ("row", "layout", "item"),
    [
        # Columns of the user, of which the answer may be several.
        (
            {"ask": "How many?", "reply": ["nine", "9"]},
            RowLayout(columns={"prompt": "ask", "answer": "reply"}),
            TestItem("How many?", "", ("nine", "9"), None),
        ),
        (
            {"question": "How many?", "answer": ["nine", "9"]},
            RowLayout(),
            TestItem("How many?", "", ("nine", "9"), None),
        ),
        (
            {"query": "How many?", "response": ["nine", "9"]},
            RowLayout(),
            TestItem("How many?", "", ("nine", "9"), None),
        ),
        (
            {"question": "How many?", "answer": ["nine", "9"]},
            RowLayout(preference="reject"),
            TestItem("How many?", "", ("nine", "9"), None),
        ),
        # The number of an option.
        (
            {"question": "How many?", "choices": ["8", "9"], "answer": 1},
            RowLayout(),
            TestItem("How many?\nA. 8\nB. 9", "", ("B",), ("8", "9")),
        ),
        (
            {"question": "How many?", "options": ["8", "9"], "answer": 1},
            RowLayout(columns={"choices": "options"}),
            TestItem("How many?\nA. 8\nB. 9", "", ("B",), ("8", "9")),
        ),
        (
            {"question": "How many?", "A": "8", "B": "9", "answer": "B"},
            RowLayout(),
            TestItem("How many?\nA. 8\nB. 9", "", ("B",), ("8", "9")),
        ),
        # Turns of other names than role, user and messages.
        (
            {"conversations": [{"from": "human", "value": "How many?"}], "answer": "9"},
            RowLayout(),
            TestItem("How many?", "", ("9",), None),
        ),
        (
            {"messages": [{"role": "narrator", "content": "Count."}, USER], "answer": ["9", "nine"]},
            RowLayout(roles={"narrator": "system"}),
            TestItem("How many?", "Count.", ("9", "nine"), None),
        ),
        (
            {"problem": "How many?", "solution": "It is 9.", "answer": 9},
            RowLayout(),
            TestItem("How many?", "", ("9",), None),
        ),
    ],
)
def test_columns_roles_and_shapes_count_for_test_rows(row: dict[str, Any], layout: RowLayout, item: TestItem):
    assert parse_item(json.dumps(row).encode(), layout) == item
