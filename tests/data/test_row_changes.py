"""Near-copies of a row, and rows that have its form or its text and are others."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.data.messages import beside_words
from instsel.data.row_changes import jaccard, near_copy, row_words
from instsel.data.words import KnownHashes, ngrams

Row = list[dict[str, Any]]

QUESTION = (
    "A farmer keeps brown hens and white geese behind the old mill. On market day he sells nine hens, buys two geese "
    "from his neighbour and gives one goose to the miller. Which animals does he have less of in the evening?"
)
ANSWER = "He sold nine hens and bought none, so he has less hens in the evening than he had in the morning."
PASSAGE = (
    "The canal was dug by hand between 1821 and 1826, and for the first thirty years most of what it carried was coal. "
    "When the railway came the barges lost that trade within a decade, and the company let the upper locks decay. "
    "Volunteers from both towns repaired them long after, and pleasure boats have used the whole length since."
)
FORM = "Decide whether the film that is named below is based on a book, and answer with one word, yes or no, please:"


def talk(*turns: str, system: str | None = None) -> Row:
    roles = ["user", "assistant"]
    row: Row = [{"role": roles[number % 2], "content": text} for number, text in enumerate(turns)]
    return row if system is None else [{"role": "system", "content": system}, *row]


def compare(first: Row, second: Row, threshold: float = 0.5, templates: KnownHashes | None = None) -> float | None:
    one, other = row_words(first, templates), row_words(second, templates)
    similarity = near_copy(one, other, threshold)
    assert near_copy(other, one, threshold) == similarity
    return similarity


BASE = talk(QUESTION, ANSWER)


@pytest.mark.parametrize(
    "other",
    [
        talk(QUESTION.upper(), ANSWER.replace(",", " ;")),
        talk(QUESTION.replace("brown", "speckled"), ANSWER),
        talk(QUESTION, ANSWER.replace("bought", "acquired")),
        talk(QUESTION.replace("brown", "https://example.org/hens/brown"), ANSWER),
        talk(f"Please answer this question as well as you can. {QUESTION}", ANSWER),
        talk(f"Question: {QUESTION.replace('white', 'grey')}", ANSWER),
        talk(f"{QUESTION} Answer:", ANSWER),
        talk(QUESTION.replace("old mill", "very old mill"), ANSWER),
        talk(QUESTION.replace("A farmer", "You are an expert. A peasant"), ANSWER),
        talk(QUESTION, ANSWER, system="You are a helpful assistant."),
        talk(QUESTION, ANSWER, "Thanks!", "Welcome."),
        talk(QUESTION.replace("nine", "9"), ANSWER),
    ],
)
def test_a_word_here_and_there_and_words_around_leave_a_copy(other: Row) -> None:
    assert compare(BASE, other) is not None


@pytest.mark.parametrize(
    "other",
    [
        talk(QUESTION, "Geese."),
        talk(QUESTION.replace("brown hens and white geese", "black sheep with young lambs"), ANSWER),
        talk(QUESTION, ANSWER, "And which does he have more of?", "He has one goose more than in the morning."),
        talk(f"{QUESTION} {PASSAGE}", ANSWER),
        talk(
            QUESTION.replace("brown", "red").replace("old", "new").replace("market", "feast"),
            ANSWER.replace("evening", "night"),
        ),
        talk(ANSWER, QUESTION),
    ],
    ids=["answer", "words", "turns", "another text", "many words", "roles"],
)
def test_what_a_row_is_about_makes_another_row(other: Row) -> None:
    assert compare(BASE, other) is None


@pytest.mark.parametrize(
    ("first", "second", "copies"),
    [
        (talk(f"{PASSAGE} Who repaired it?", "Volunteers"), talk(f"{PASSAGE} What did it carry?", "Coal"), False),
        (talk(f"{PASSAGE} Who repaired it?", "Volunteers"), talk(f"{PASSAGE} Who used it later?", "Boats"), False),
        (
            talk(f"{PASSAGE} Is it used?", "Yes"),
            talk(f"{PASSAGE} Did the railway company dig it by hand?", "Yes"),
            False,
        ),
        (talk(f"{PASSAGE} Is it used?", "Yes"), talk(f"{PASSAGE} Is it used?", "No"), False),
        (talk(f"{PASSAGE} Is it used?", "Yes"), talk(f"Text: {PASSAGE} Is it used?", "Yes"), True),
        (
            talk(f"What did it carry? {PASSAGE}", "Coal"),
            talk(f"{PASSAGE} Who let the upper locks decay?", "Coal"),
            False,
        ),
    ],
)
def test_a_passage_with_another_question_is_another_row(first: Row, second: Row, copies: bool) -> None:
    assert (compare(first, second) is not None) == copies


@pytest.mark.parametrize(
    ("first", "second", "copies"),
    [
        (talk("What is 2+3?", "5"), talk("What is 2+4?", "6"), False),
        (talk("What is 2+3?", "5"), talk("what is 2 + 3", "5."), True),
        (talk("What is 2+3?", "5"), talk("What is 2-3?", "5"), False),
        (talk("Name a fruit.", "An apple."), talk("Name a fruit.", "A pear."), False),
        (talk("What is the capital of France?", "Paris"), talk("What is the capital of Spain?", "Paris"), False),
        (
            talk("What is the capital of France today?", "It is the city of Paris."),
            talk("Question: What is the capital of France today?", "It is the city of Paris."),
            True,
        ),
        (
            talk("What is the capital of France?", "It is the city of Paris."),
            talk("What is the capital of France?", "It is the city of Paris, France."),
            False,
        ),
        (talk("!?", "..."), talk("?!", "."), True),
        (talk("Write this in C.", "Here it is, in full."), talk("Write this in C++.", "Here it is, in full."), False),
        (talk("Write this in C#.", "Here it is, in full."), talk("Write this in C++.", "Here it is, in full."), False),
        (talk("Is it 5 %?", "It is."), talk("Is it 5?", "It is."), False),
        (talk("What is f(-5)?", "It is."), talk("What is f(5)?", "It is."), False),
        (talk("Is total + tax right?", "It is."), talk("Is total - tax right?", "It is."), False),
        (talk("Is total+tax right?", "It is."), talk("Is total + tax right?", "It is."), True),
        (talk("Is it a well-known tax?", "It is."), talk("Is it a well known tax?", "It is."), True),
        (talk("Is α + β right?", "It is."), talk("Is α - β right?", "It is."), False),
    ],
)
def test_in_short_rows_every_word_of_the_content_counts(first: Row, second: Row, copies: bool) -> None:
    assert (compare(first, second) is not None) == copies


@pytest.mark.parametrize(
    ("change", "copies"),
    [
        (lambda text: text.replace("1821", "1822"), True),
        (lambda text: text.replace("1821", "1822").replace("1826", "1827"), False),
        (lambda text: text.replace("thirty", "30"), True),
        (lambda text: f"Exercise 12. {text}", True),
    ],
)
def test_a_single_number_may_differ_in_a_long_row(change: Any, copies: bool) -> None:
    first, second = talk(PASSAGE, ANSWER), talk(change(PASSAGE), ANSWER)
    assert (compare(first, second) is not None) == copies


@pytest.mark.parametrize(
    ("sign", "other"),
    [("+", "-"), ("<", "<="), ("==", "!="), ("&&", "||"), ("+=", "-="), ("*", "**")],
)
def test_another_operator_makes_another_program(sign: str, other: str) -> None:
    code = f"{PASSAGE} {QUESTION} def gain(price, cost): return price {sign} cost, price.round() {sign} cost.round()"
    changed = code.replace(sign, other, 1)
    assert compare(talk(code, ANSWER), talk(changed, ANSWER)) is None
    assert compare(talk(code, ANSWER), talk(f"Question: {code.upper()}", ANSWER)) is not None


def test_numbers_may_not_differ_in_a_short_row() -> None:
    text = "There are {} apples in the basket of the old woman who sits by the road."
    assert compare(talk(text.format(12), "So many."), talk(text.format(13), "So many.")) is None
    assert compare(talk(text.format("ripe"), "So many."), talk(text.format("sweet"), "So many.")) is None
    longer = f"{text} A boy with a dog comes along and asks her for one of the green ones that he likes best."
    assert compare(talk(longer.format("ripe"), "So many."), talk(longer.format("sweet"), "So many.")) is not None


def test_what_many_rows_share_is_no_content() -> None:
    """The name of a film is one word of many, and all that the row is about."""
    first, second = (talk(f"{FORM} {film}", "No") for film in ("Casablanca", "Metropolis"))
    shared = np.intersect1d(*(ngrams(row_words(row).hashes, 5) for row in (first, second)))
    templates = KnownHashes(shared)
    prefixed = talk(f"Attention now: {FORM} Casablanca", "No")
    assert compare(first, second, templates=templates) is None
    assert compare(first, prefixed, templates=templates) is not None
    more = [talk(f"{FORM} {film}. {QUESTION}", "No") for film in ("Casablanca", "Metropolis")]
    assert compare(*more, templates=templates) is not None


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # With marks u, A, e, e the shingles are uab abA bAc Ace cee; those of the second are ubA bAc Ace cee.
        (talk("a b", "c"), talk("a b", "c"), 1),
        (talk("a b", "c"), talk("b", "c"), 3 / 6),
        # Three of seven have the word that differs.
        (talk("a b c d", "e"), talk("a b c x", "e"), 4 / 10),
        (talk("a", "b"), talk("c", "d"), 0),
    ],
)
def test_jaccard_by_hand(first: Row, second: Row, expected: float) -> None:
    assert jaccard(row_words(first), row_words(second)) == pytest.approx(expected)
    assert jaccard(row_words(second), row_words(first)) == pytest.approx(expected)


def test_a_threshold_of_one_keeps_rows_of_the_same_words() -> None:
    assert compare(BASE, talk(QUESTION.lower(), ANSWER.upper()), threshold=1) == 1
    assert compare(BASE, talk(f"So: {QUESTION}", ANSWER), threshold=1) is None


@pytest.mark.parametrize(
    ("tools", "others", "copies"),
    [
        ('[{"name": "sell", "strict": true}]', '[{"strict": true, "name": "sell"}]', True),
        ('[{"name": "sell"}]', '[{"name": "count"}]', False),
        ('[{"name": "sell"}]', None, False),
        (None, None, True),
    ],
)
def test_rows_with_other_tools_are_no_copies(tools: str | None, others: str | None, copies: bool) -> None:
    first = row_words(BASE, beside=beside_words(BASE, tools))
    second = row_words(talk(QUESTION.upper(), ANSWER), beside=beside_words(BASE, others))
    assert (near_copy(first, second, 0.5) is not None) == (near_copy(second, first, 0.5) is not None) == copies


def test_what_is_beside_words_has_no_ids_and_is_written_in_one_order() -> None:
    call = {"name": "sell", "arguments": {"what": "hens", "how many": 2}}
    turns = [
        {"tool_calls": [{"id": "a", "type": "function", "function": call}]},
        {"tool_calls": [{"id": "b", "function": {**call, "arguments": '{"how many": 2, "what": "hens"}'}}]},
    ]
    hashes = {beside_words([{"role": "assistant", "content": None, **keys}]) for keys in turns}
    other = {"tool_calls": [{"function": {**call, "arguments": {"what": "hens", "how many": 3}}}]}
    assert len(hashes) == 1
    assert beside_words([{"role": "assistant", "content": None, **other}]) not in {*hashes, 0}
    assert beside_words(BASE) == 0


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}])
def test_rows_of_which_other_answers_are_trained_on_are_no_copies(mark: dict[str, Any]) -> None:
    masked = [BASE[0], {**BASE[1], **mark}]
    assert beside_words(masked) == beside_words([BASE[0], {**BASE[1], "loss": 0}])
    assert beside_words(masked) != 0
    assert beside_words([BASE[0], {**BASE[1], "weight": 1}]) == beside_words(BASE)


_words = st.lists(st.sampled_from([f"w{number}" for number in "abcdefgh"]), min_size=1, max_size=40)


@settings(deadline=None)
@given(_words, _words)
def test_comparison_is_symmetric_and_a_row_is_a_copy_of_itself(first: list[str], second: list[str]) -> None:
    one, other = talk(" ".join(first), " ".join(second)), talk(" ".join(second), " ".join(first))
    assert compare(one, one) == 1
    compare(one, other)


@settings(deadline=None)
@given(st.integers(30, 60), st.integers(0, 59), st.integers(0, 12))
def test_a_changed_word_and_a_prefix_leave_a_copy_of_thirty_words(count: int, place: int, prefix: int) -> None:
    words = [f"w{number:x}".translate(LETTERS) for number in range(count)]
    changed = ["other" if number == place % count else word for number, word in enumerate(words)]
    before = " ".join(["before"] * prefix)
    first = talk(" ".join(words), "a fine answer to it")
    assert compare(first, talk(f"{before} {' '.join(changed)}", "a fine answer to it")) is not None


LETTERS = str.maketrans("0123456789", "ghijklmnop")
