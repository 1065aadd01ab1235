import random
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsel.quickstart.tasks import TASKS, Task, rows_of

CHOICE = Task("choice", "Some Set", ("a.jsonl",), "{question}\n{options}", longest=60)


def record(question: str, answer: str | list[str] = "A. yes", options: str = "A. yes\nB. no") -> dict:
    return {"question": question, "answer": answer, "options": options}


def prompts(rows: list[dict]) -> list[str]:
    return [row["messages"][0]["content"] for row in rows]


def test_a_record_becomes_a_conversation_with_options_and_answer() -> None:
    (row,) = rows_of(CHOICE, [record("  Is it  so? ", options="\nA. yes \n\nB.  no")])
    assert row == {
        "source": "Some Set",
        "task": "choice",
        "messages": [
            {"role": "user", "content": "Is it so?\nA. yes\nB. no"},
            {"role": "assistant", "content": "A. yes"},
        ],
    }


@pytest.mark.parametrize(("form", "answer"), [("given", "A. Mr. Lee"), ("letter", "A"), ("text", "Mr. Lee")])
def test_the_answer_has_the_form_of_its_task(form: Literal["given", "letter", "text"], answer: str) -> None:
    (row,) = rows_of(replace(CHOICE, answer_as=form), [record("who", answer="A. Mr. Lee")])
    assert row["messages"][1]["content"] == answer


def test_the_first_of_several_answers_is_taken() -> None:
    task = Task("open", "Open", ("a.jsonl",), "{question}", answer="replies")
    (row,) = rows_of(task, [{"question": "who", "replies": ["Ann Lee", "Bo"]}])
    assert row["messages"][1]["content"] == "Ann Lee"


def test_a_question_occurs_once_whatever_its_case_marks_and_options() -> None:
    records = [record("Is it so?"), record("is it SO"), record("Is it so ?", options="A. a\nB. b"), record("Is it?")]
    assert sorted(prompts(rows_of(CHOICE, records))) == ["Is it so?\nA. yes\nB. no", "Is it?\nA. yes\nB. no"]


def test_long_and_empty_records_are_left_out() -> None:
    at_limit = record("x" * (60 - len("\nA. yes\nB. no") - len("A. yes")))
    over = record(at_limit["question"] + "x")
    assert prompts(rows_of(CHOICE, [over, at_limit])) == [at_limit["question"] + "\nA. yes\nB. no"]
    assert rows_of(CHOICE, [record(" ?"), record("why", answer=" ")]) == []
    assert rows_of(replace(CHOICE, answer_as="letter"), [record("why", answer="none of these")]) == []


@given(st.sets(st.text("abcdefgh", min_size=1, max_size=8), min_size=1, max_size=20), st.integers())
def test_the_order_follows_from_the_content_alone(questions: set[str], seed: int) -> None:
    records = [record(question) for question in sorted(questions)]
    shuffled = random.Random(seed).sample(records, len(records))
    assert rows_of(CHOICE, shuffled) == rows_of(CHOICE, records)


def test_the_order_is_not_the_alphabet() -> None:
    records = [record(f"question {letter}") for letter in "abcdefghij"]
    assert prompts(rows_of(CHOICE, records)) != sorted(prompts(rows_of(CHOICE, records)))


def test_the_pool_has_at_least_twelve_tasks_of_different_names() -> None:
    assert len({task.name for task in TASKS}) == len(TASKS) >= 12
