"""Words of conversations: what they are in every script, and the hashes of their sequences."""

from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from instsel.data.words import (
    CHARACTER,
    MULTIPLIER,
    NUMBER,
    SIGN,
    WORD,
    KnownHashes,
    Words,
    among,
    deletion_hashes,
    ngrams,
    turn_text,
    words_of,
)


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def hashes(*words: str) -> list[int]:
    return [xxhash.xxh3_64_intdigest(word.encode()) for word in words]


@pytest.mark.parametrize(
    ("text", "words", "kinds"),
    [
        ("Hello, World!", ["hello", "world"], [WORD, WORD]),
        ("don't STOP_it", ["don", "t", "stop", "it"], [WORD] * 4),
        ("2+3 = 5", ["2", "+", "3", "=", "5"], [NUMBER, SIGN, NUMBER, SIGN, NUMBER]),
        ("x-y, a well-known fact", ["x", "-", "y", "a", "well", "known", "fact"], [WORD, SIGN, *[WORD] * 5]),
        ("answer2 and 2nd, f(x)", ["answer2", "and", "2nd", "f", "x"], [NUMBER, WORD, NUMBER, WORD, WORD]),
        ("- one\n- two", ["one", "two"], [WORD, WORD]),
        ("请问 abc", ["请", "问", "abc"], [CHARACTER, CHARACTER, WORD]),
        ("Été e\u0301te\u0301", ["été", "été"], [WORD, WORD]),
        ("कौन ऐसा", ["कौन", "ऐसा"], [WORD, WORD]),
        ("ok 😀→", ["ok", "😀", "→"], [WORD, SIGN, SIGN]),
        (" \n.,;:!?\u2026", [], []),
        ("", [], []),
    ],
)
def test_words_are_runs_of_letters_and_digits_and_signs_that_carry_content(
    text: str, words: list[str], kinds: list[int]
) -> None:
    split = words_of(user(text))
    assert split.hashes.tolist() == hashes(*words)
    assert split.kinds.tolist() == kinds


def test_turns_know_their_words() -> None:
    row = words_of([{"role": "system", "content": "Be brief."}, *user("a b"), *user(""), *user("请 c")])
    assert row.ends == [2, 4, 4, 6]
    assert row.turns.tolist() == [0, 0, 1, 1, 3, 3]
    assert row.mask("user").tolist() == [False] * 2 + [True] * 4
    assert row.turn_hashes[2] == 0
    assert row.turn_hashes[1] == words_of(user("A, B!")).turn_hashes[0]
    assert row.weight(4, 6) == pytest.approx(1 + 13 / 30)
    said = row.of_role("user")
    assert (said.ends, list(said.roles)) == ([2, 2, 4], ["user"] * 3)
    assert said.of_role("user") is said
    assert words_of([]).turn_hashes == []


def test_signs_can_be_left_out() -> None:
    row = words_of([*user("1+2"), *user("no sign")]).without_signs()
    assert row.hashes.tolist() == hashes("1", "2", "no", "sign")
    assert row.ends == [2, 4]


@pytest.mark.parametrize(
    ("turn", "text"),
    [
        ({"role": "user", "content": "Hi"}, "Hi"),
        ({"role": "assistant", "content": None, "tool_calls": [{"name": "add", "a": 1}]}, '[{"a": 1, "name": "add"}]'),
        ({"role": "assistant", "content": "4", "reasoning": "2 and 2", "weight": 0, "train": True}, "4\n2 and 2"),
        ({"role": "assistant", "content": "4", "tool_calls": None, "reasoning": ""}, "4"),
        ({"role": "assistant"}, ""),
    ],
)
def test_a_turn_says_its_content_and_what_it_calls_and_thinks(turn: dict[str, Any], text: str) -> None:
    assert turn_text(turn) == text


_hashes = st.lists(st.integers(0, 2**64 - 1), max_size=40).map(lambda values: np.array(values, dtype=np.uint64))


@given(_hashes, st.integers(1, 45))
def test_ngrams_are_polynomials_of_their_words(values: np.ndarray, length: int) -> None:
    def polynomial(window: np.ndarray) -> int:
        return sum(int(word) * pow(MULTIPLIER, power, 2**64) for power, word in enumerate(window)) % 2**64

    windows = [polynomial(values[start : start + length]) for start in range(len(values) - length + 1)]
    assert ngrams(values, length).tolist() == windows


def deletions(values: np.ndarray, padding: int = 0) -> set[int]:
    rows = np.append(values, np.zeros(padding, dtype=np.uint64))[None]
    found = deletion_hashes(rows, np.array([len(values)]))[0].tolist()
    return {*found[: len(values)], found[-1]}


@given(_hashes.filter(len), st.integers(1, 20))
def test_a_text_beside_longer_ones_has_the_same_hashes(values: np.ndarray, padding: int) -> None:
    assert deletions(values) == deletions(values, padding)


@given(_hashes.filter(len), st.integers(0, 39), st.integers(0, 2**64 - 1))
def test_texts_that_differ_in_a_word_share_a_hash(values: np.ndarray, place: int, word: int) -> None:
    place %= len(values)
    other = values.copy()
    other[place] = word
    without = np.delete(values, place)
    assert deletions(values) & deletions(other)
    if len(without):
        assert deletions(values) & deletions(without)


def test_texts_that_differ_in_two_words_share_no_hash() -> None:
    first, second = (np.array(hashes(*text.split()), dtype=np.uint64) for text in ("a b c d e", "a x c y e"))
    assert not deletions(first) & deletions(second)


@given(st.sets(st.integers(0, 2**64 - 1), max_size=60), st.lists(st.integers(0, 2**64 - 1), max_size=30))
def test_known_hashes_are_those_of_a_set(known: set[int], others: list[int]) -> None:
    values = np.array([*others, *sorted(known)[:5]], dtype=np.uint64)
    expected = [number for number, value in enumerate(values.tolist()) if value in known]
    ordered = np.array(sorted(known), dtype=np.uint64)
    assert np.flatnonzero(among(values, ordered)).tolist() == expected
    assert KnownHashes(ordered).among(values).tolist() == expected


def test_the_hash_of_a_span_is_that_of_its_words_alone() -> None:
    row = words_of(user("one two three four"))
    part = words_of(user("two three"))
    assert isinstance(row, Words)
    assert row.span_hash(1, 3) == part.span_hash(0, 2)
    assert row.span_hash(0, 2) != part.span_hash(0, 2)
    assert row.span_hash(2, 2) == 0
