"""Other answers: an item's own options in the form of its answer, else other items' answers, by seed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.data.other_answers import AnsweredItem, choices_of, normalise, options, other_answers

LETTERS = "What does he feel?\nA. sober\nB. anger\nC. joy\nAnswer:"
NAMED = "Which way?\n\nAnswer1: west Answer2: east Answer3: up\n\nAnswer format: answer1/answer2/answer3"
BULLETS = "Q: What?\n\n Choices:\n\n- glucose\n\n- salt\n\n- sugar\n\nA:"


def item(prompt: str, answer: str, **more: object) -> AnsweredItem:
    return AnsweredItem(**{"id": "0", "group": "", "prompt": prompt, "answer": answer, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "answer", "others"),
    [
        (LETTERS, "B", ["A", "C"]),
        (LETTERS, "(B).", ["(A).", "(C)."]),
        (LETTERS, "B. anger", ["A. sober", "C. joy"]),
        (LETTERS, "Anger", ["sober", "joy"]),
        (LETTERS, "So the answer is (B).", ["So the answer is (A).", "So the answer is (C)."]),
        (LETTERS, "b", []),
        (LETTERS, "fear", []),
        # A text that is an option is meant, not the letter that it ends in.
        ("Which?\nA. iron\nB. vitamin A", "vitamin A", ["iron"]),
        ("Which?\n(a) x\n(b) y", "(a) x", ["(b) y"]),
        ("Which?\n1) x\n2) y\n3) z", "2", ["1", "3"]),
        # A sentence may end in a number that is no label.
        ("Do this:\n1. add\n2. halve\nHow many?", "There are 2", []),
        (NAMED, "the correct answer is answer2", ["the correct answer is answer1", "the correct answer is answer3"]),
        (NAMED, "east", ["west", "up"]),
        (BULLETS, "salt", ["glucose", "sugar"]),
        (BULLETS, "pepper", []),
        # Examples before the question have lists of their own.
        (f"{LETTERS} B\n\nAnd now?\nA. red\nB. blue\nAnswer:", "red", ["blue"]),
        ("A. alone\nWhich?", "A", []),
        ("He said: A. or C. it was.", "A", []),
    ],
)
def test_options_are_told_from_the_prompt(prompt: str, answer: str, others: list[str]) -> None:
    assert options(item(prompt, answer)) == others


@pytest.mark.parametrize(
    ("prompt", "answer", "others"),
    [
        ("Who?", "Ann", ["Bob", "Cy"]),
        ("Who?", "A", ["B", "C"]),
        ("Who?\n1) Ann\n2) Bob\n3) Cy", "3", ["1", "2"]),
        ("Who?", "Dan", []),
        # What comes with the item goes before what stands in the prompt.
        ("Who?\n- Dan\n- Eve", "Dan", []),
    ],
)
def test_options_that_come_with_the_item(prompt: str, answer: str, others: list[str]) -> None:
    assert options(item(prompt, answer, choices=["Ann ", "Bob", "Cy"])) == others


def test_items_without_options_take_the_answers_of_their_group_that_differ() -> None:
    items = [
        AnsweredItem("1", "sums", "1 + 1?", "Two"),
        AnsweredItem("2", "sums", "2 + 0?", "two."),
        AnsweredItem("3", "sums", "2 + 1?", "Three"),
        AnsweredItem("4", "sums", "2 + 2?", "Four"),
        AnsweredItem("5", "cities", "Capital?", "Oslo"),
    ]
    assert [sorted(others) for others in other_answers(items, 4, 0)] == [
        ["Four", "Three"],
        ["Four", "Three"],
        ["Four", "Two"],
        ["Three", "Two"],
        [],
    ]


def test_each_different_answer_has_the_same_chance_however_often_it_is_given() -> None:
    items = [AnsweredItem(f"x{number}", "", "?", "often" if number else "seldom") for number in range(50)]
    items += [AnsweredItem(f"y{number}", "", "?", f"mine {number}") for number in range(400)]
    drawn = [others[0] for others in other_answers(items, 1, 0)[50:]]
    # Of 402 different answers, each is drawn about once by 400 items.
    assert drawn.count("often") < 8 and len(set(drawn)) > 200


@settings(max_examples=60, deadline=None)
@given(
    answers=st.lists(st.sampled_from(["red", "Red.", "blue", "green", "a b", "A  b!", "?"]), min_size=1, max_size=9),
    count=st.integers(1, 5),
    seed=st.integers(0, 9),
    order=st.randoms(use_true_random=False),
)
def test_draws_differ_from_the_answer_and_from_each_other_and_do_not_depend_on_the_order(
    answers: list[str], count: int, seed: int, order: object
) -> None:
    items = [AnsweredItem(str(number), "", "?", answer) for number, answer in enumerate(answers)]
    drawn = dict(zip([each.id for each in items], other_answers(items, count, seed), strict=True))
    different = {normalise(answer) for answer in answers}
    for each in items:
        keys = [normalise(text) for text in drawn[each.id]]
        assert len(keys) == len(set(keys)) == min(count, len(different) - 1)
        assert normalise(each.answer) not in keys and set(keys) <= different
    shuffled = list(items)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert other_answers(shuffled, count, seed) == [drawn[each.id] for each in shuffled]


def test_another_seed_draws_others() -> None:
    items = [AnsweredItem(str(number), "", "?", f"answer {number}") for number in range(30)]
    assert other_answers(items, 3, 0) == other_answers(items, 3, 0) != other_answers(items, 3, 1)


@pytest.mark.parametrize(
    ("value", "choices"),
    [
        (["a", "b"], ["a", "b"]),
        ([1, 2.5], ["1", "2.5"]),
        ({"text": ["a", "b"], "label": ["A", "B"]}, ["a", "b"]),
        (None, []),
        ("a, b", []),
        (["a", " "], []),
        (["a", True], []),
        ([{"text": "a"}], []),
        ({"label": ["A"]}, []),
    ],
)
def test_choices_of_a_row(value: object, choices: list[str]) -> None:
    assert choices_of(value) == choices  # type: ignore[arg-type]


def test_texts_of_punctuation_alone_differ() -> None:
    assert normalise("+") != normalise("-") and normalise("The  END.") == "the end"
