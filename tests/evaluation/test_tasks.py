"""Rows of a user become items of a task: options are found, and the right one among them."""

import pytest

from instsel.config.rows import Scoring
from instsel.data.messages import BadRow
from instsel.data.test_items import TestItem
from instsel.evaluation import metrics
from instsel.evaluation.code import ALLOWED
from instsel.evaluation.tasks import written_item

CHOICE = Scoring(metric="choice")
QUESTION = "What is it?\nA. full\nB. ample"


def item(prompt: str, *answers: str, choices: tuple[str, ...] | None = None, **code: object) -> TestItem:
    return TestItem(prompt, "", answers, choices, **code)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", ["B", "ample", "B. ample"])
def test_the_right_option_is_given_by_letter_by_text_or_by_both(answer: str):
    letters = written_item(item(QUESTION, answer), CHOICE, cloze=False)
    assert letters == {"prompt": QUESTION, "choices": ["A", "B"], "label": 1}
    cloze = written_item(item(QUESTION, answer), CHOICE, cloze=True)
    assert cloze == {"prompt": "What is it?", "choices": ["full", "ample"], "label": 1}


def test_numbered_answers_are_known_in_small_letters():
    assert written_item(item("It? Answer1: x Answer2: y", "answer2"), CHOICE, cloze=False)["label"] == 1


def test_options_of_the_row_are_taken_where_the_prompt_shows_none():
    shown = written_item(item("Cold or warm?", "warm", choices=("cold", "warm")), CHOICE, cloze=True)
    assert shown == {"prompt": "Cold or warm?", "choices": ["cold", "warm"], "label": 1}


@pytest.mark.parametrize(
    ("row", "scoring", "reason"),
    [
        (item("What is it?", "B"), "choice", "no options"),
        (item(QUESTION, "C"), "choice", "the answer is none of the options"),
        (item("Write f.", "def f(): pass"), "code", "no `tests`"),
    ],
)
def test_what_cannot_be_written_is_rejected_with_its_reason(row: TestItem, scoring: str, reason: str):
    with pytest.raises(BadRow, match=reason):
        written_item(row, Scoring(metric=scoring), cloze=False)


@pytest.mark.process
@pytest.mark.parametrize(
    ("response", "score"),
    [("```python\ndef f():\n    return N\n```", 1.0), ("    return N", 1.0), ("    return 2", 0.0), ("I cannot.", 0.0)],
)
def test_a_program_is_scored_by_its_tests(response: str, score: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ALLOWED, "1")
    row = item("Write f.", "?", setup='N = 1\ndef f():\n    """One."""\n', tests=("assert f() == 1",))
    written = written_item(row, Scoring(metric="code"), cloze=False)
    assert metrics.code_results(written, [response]) == {"code": score}
