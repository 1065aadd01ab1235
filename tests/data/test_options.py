"""Options are found in prompts, and the list of the question and not of an example before it."""

import pytest

from instsel.data.options import option_lists

QUESTION = "What is it?\nA. full\nB. ample"


@pytest.mark.parametrize(
    ("prompt", "labels", "texts"),
    [
        (QUESTION, ["A", "B"], ["full", "ample"]),
        ("It?\n(A) full\n(B) ample\nAnswer:", ["A", "B"], ["full", "ample"]),
        ("It?\nA) full\nB) ample", ["A", "B"], ["full", "ample"]),
        ("It? answer1: full answer2: ample", ["answer1", "answer2"], ["full", "ample"]),
    ],
)
def test_options_are_found_as_people_write_them(prompt: str, labels: list[str], texts: list[str]):
    found = option_lists(prompt)[0]
    assert (found.labels, found.texts) == (labels, texts)


def test_a_text_without_options_has_none():
    assert option_lists("Which of A. or B. is it?") == []
    assert [len(each.texts) for each in option_lists("A. only one")] == [1]


def test_the_list_of_the_question_comes_before_those_of_examples():
    prompt = f"{QUESTION}\nAnswer: B\n\nAnd this?\nA. red\nB. blue"
    first, second = option_lists(prompt)
    assert (first.texts, second.texts) == (["red", "blue"], ["full", "ample"])
    assert prompt[: first.start].rstrip().endswith("And this?")
