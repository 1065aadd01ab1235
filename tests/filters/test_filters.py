"""Each filter on rows worked out by hand, and the filters of a study together."""

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from instsel.errors import InputError
from instsel.filters.base import Filter, FilterRow, counts_by_filter, name_filters, rejections, why_filtered
from instsel.filters.quality import non_letter_share, repeated_share
from instsel.filters.registry import REGISTRY, AnyFilter

SYSTEM, USER, CALL, TOOL, ANSWER = "Be brief.", "What is the weather in Oslo?", "", "12 degrees", "It is mild."
TURNS = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": USER},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather", "arguments": "{}"}}]},
    {"role": "tool", "content": TOOL},
    {"role": "assistant", "content": ANSWER},
]
COLUMNS = {
    "score": 0.8,
    "text_score": " 0.25 ",
    "flag": True,
    "kind": "math",
    "tags": ["math", "easy"],
    "meta": {"quality": {"score": 3}, "lang": "en"},
    "a.b": {"c": 1},
    "nothing": None,
    "huge": 10**400,
}


def checked(entry: Any) -> Filter:
    """Return an entry of `data.filters`, checked as a study file is."""
    adapter: Any = TypeAdapter(AnyFilter)
    result: Filter = adapter.validate_python(entry)
    return result


def row(prompt: str = "", answer: str = "", **columns: Any) -> FilterRow:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return FilterRow(turns, columns)


WHOLE = FilterRow(TURNS, COLUMNS, tokens=40, answer_tokens=12)


def test_the_answer_is_what_the_assistants_turns_say_and_the_prompt_all_else() -> None:
    assert WHOLE.text("prompt") == f"{SYSTEM}\n{USER}\n{TOOL}"
    assert WHOLE.text("answer") == ANSWER
    assert WHOLE.text("row") == f"{SYSTEM}\n{USER}\n{TOOL}\n{ANSWER}"
    assert [WHOLE.token_count(part) for part in ("prompt", "answer", "row")] == [28, 12, 40]
    with pytest.raises(ValueError, match="has no tokens yet"):
        FilterRow(TURNS).token_count("row")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        # 2 + 6 + 2 words of the prompt, 3 of the answer.
        ({"filter": "length", "min": 13}, None),
        ({"filter": "length", "min": 14}, "fewer than 14 words in the row"),
        ({"filter": "length", "max": 13}, None),
        ({"filter": "length", "max": 12}, "more than 12 words in the row"),
        ({"filter": "length", "of": "prompt", "max": 9}, "more than 9 words in the prompt"),
        ({"filter": "length", "of": "answer", "min": 3, "max": 3}, None),
        ({"filter": "length", "of": "answer", "min": 4}, "fewer than 4 words in the answer"),
        ({"filter": "length", "of": "answer", "unit": "characters", "min": 11, "max": 11}, None),
        (
            {"filter": "length", "of": "answer", "unit": "characters", "max": 10},
            "more than 10 characters in the answer",
        ),
        ({"filter": "length", "of": "prompt", "unit": "tokens", "min": 28, "max": 28}, None),
        ({"filter": "length", "unit": "tokens", "max": 39}, "more than 39 tokens in the row"),
        ({"filter": "length", "of": "answer", "unit": "tokens", "min": 13}, "fewer than 13 tokens in the answer"),
        # The system turn does not count.
        ({"filter": "turns", "min": 4, "max": 4}, None),
        ({"filter": "turns", "min": 5}, "fewer than 5 turns"),
        ({"filter": "turns", "max": 2}, "more than 2 turns"),
        ({"filter": "regex", "pattern": "weather"}, "the row matches weather"),
        ({"filter": "regex", "pattern": "weather", "of": "answer"}, None),
        ({"filter": "regex", "pattern": "^it is", "of": "answer"}, None),
        ({"filter": "regex", "pattern": "(?i)^it is", "of": "answer"}, "the answer matches (?i)^it is"),
        ({"filter": "regex", "pattern": r"\d+", "of": "answer", "matches": "keep"}, r"the answer does not match \d+"),
        ({"filter": "regex", "pattern": r"\d+", "of": "prompt", "matches": "keep"}, None),
        ({"filter": "regex", "pattern": f"(?:weather){'x*' * 50}"}, f"the row matches (?:weather){'x*' * 24}x..."),
        ({"filter": "column", "column": "score", "min": 0.8, "max": 0.8}, None),
        ({"filter": "column", "column": "score", "min": 0.81}, "column 'score' is below 0.81"),
        ({"filter": "column", "column": "score", "max": 0.5}, "column 'score' is above 0.5"),
        ({"filter": "column", "column": "text_score", "min": 0.25}, None),
        ({"filter": "column", "column": "text_score", "min": 1}, "column 'text_score' is below 1"),
        ({"filter": "column", "column": "flag", "min": 0}, "column 'flag' is not a number"),
        ({"filter": "column", "column": "kind", "min": 0}, "column 'kind' is not a number"),
        ({"filter": "column", "column": "huge", "min": 0}, "column 'huge' is not a number"),
        ({"filter": "column", "column": "meta.quality.score", "min": 3}, None),
        ({"filter": "column", "column": "a.b.c", "min": 2}, "column 'a.b.c' is below 2"),
        ({"filter": "column", "column": "nowhere", "min": 3}, "no column 'nowhere'"),
        ({"filter": "column", "column": "meta.nowhere", "min": 3}, "no column 'meta.nowhere'"),
        ({"filter": "column", "column": "nothing", "values": ["x"]}, "no column 'nothing'"),
        ({"filter": "column", "column": "nowhere", "min": 3, "missing": "keep"}, None),
        ({"filter": "column", "column": "kind", "values": ["code", "math"]}, None),
        ({"filter": "column", "column": "kind", "values": ["code"]}, "column 'kind' is none of the values"),
        ({"filter": "column", "column": "kind", "exclude": ["math"]}, "column 'kind' is 'math'"),
        ({"filter": "column", "column": "kind", "exclude": ["code"]}, None),
        ({"filter": "column", "column": "tags", "values": ["easy"]}, None),
        ({"filter": "column", "column": "tags", "exclude": ["hard", "easy"]}, "column 'tags' is 'easy'"),
        ({"filter": "column", "column": "flag", "values": [True]}, None),
        ({"filter": "column", "column": "flag", "values": [1]}, "column 'flag' is none of the values"),
        ({"filter": "column", "column": "meta.quality.score", "values": [3.0]}, None),
        ({"filter": "column", "column": "meta.quality.score", "values": ["3"]}, None),
    ],
)
def test_a_row_is_kept_or_rejected_with_its_reason(entry: dict[str, Any], reason: str | None) -> None:
    each = checked(entry)
    assert each.reject(WHOLE) == reason
    assert each.reject_all([WHOLE, WHOLE]) == [reason, reason]


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"filter": "length"}, "nothing is asked for; give `min` or `max`"),
        ({"filter": "turns"}, "nothing is asked for; give `min` or `max`"),
        ({"filter": "length", "min": 5, "max": 4}, "min is 5 and max is 4, so that every row is rejected"),
        ({"filter": "length", "min": 0}, "greater than or equal to 1"),
        ({"filter": "length", "min": 1.5}, "valid integer"),
        ({"filter": "length", "min": 1, "unit": "letters"}, "'words', 'characters' or 'tokens'"),
        ({"filter": "regex", "pattern": ""}, "at least 1 character"),
        ({"filter": "regex", "pattern": "(a"}, r"missing \): \(a: no regular expression of RE2"),
        ({"filter": "regex", "pattern": r"(?=a)b"}, "neither look-around nor references"),
        ({"filter": "regex", "pattern": r"(a)\1"}, "neither look-around nor references"),
        ({"filter": "regex", "pattern": "((a{1,100}){1,100}){1,100}"}, "no regular expression of RE2"),
        ({"filter": "column", "column": "x"}, "nothing is asked for; give `min`, `max`, `values` or `exclude`"),
        ({"filter": "column", "column": "", "min": 3}, "at least 1 character"),
        ({"filter": "column", "column": "x", "min": 3, "values": [1]}, "write two filters"),
        ({"filter": "column", "column": "x", "values": []}, "at least 1 item"),
        ({"filter": "column", "column": "x", "values": [1], "exclude": ["1"]}, "'1' is in `values` and in `exclude`"),
        ({"filter": "column", "column": "x", "min": float("nan")}, "finite"),
        ({"filter": "language", "languages": []}, "at least 1 item"),
        (
            {"filter": "language", "languages": ["english"]},
            "'english' is not one of the languages that can be told: af,",
        ),
        ({"filter": "repetition", "max": 1.0}, "less than 1"),
        ({"filter": "repetition", "n": 0}, "greater than or equal to 1"),
        ({"filter": "length", "min": 1, "name": "a/b"}, "is not usable"),
    ],
)
def test_an_entry_that_means_nothing_is_refused(entry: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        checked(entry)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)+$", "(a|aa)+$", "(a*)*b", r"^(\w+\s?)+\.$"])
def test_a_pattern_that_backtracks_for_ever_takes_no_time(pattern: str) -> None:
    each = checked({"filter": "regex", "pattern": pattern, "of": "answer"})
    start = time.perf_counter()
    assert each.reject(row(answer=f"{'a' * 50_000}!")) is None
    assert time.perf_counter() - start < 5


LANGUAGES = {
    "en": "The committee will meet again on Thursday to discuss the budget of the library and the new reading room.",
    "de": "Der Ausschuss trifft sich am Donnerstag wieder, um den Haushalt der Bibliothek zu besprechen.",
    "fr": "Le comité se réunira de nouveau jeudi pour discuter du budget de la bibliothèque et de la salle de lecture.",
    "ru": "Комитет снова соберётся в четверг, чтобы обсудить бюджет библиотеки и новый читальный зал.",
    "ja": "委員会は図書館の予算と新しい閲覧室について話し合うため、木曜日に再び集まります。",
    "ar": "ستجتمع اللجنة مرة أخرى يوم الخميس لمناقشة ميزانية المكتبة وقاعة القراءة الجديدة.",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_rows_in_other_languages_are_rejected_with_the_language(language: str) -> None:
    each = checked({"filter": "language", "languages": ["en", "fr"], "of": "answer"})
    reason = each.reject(row("Übersetze das bitte ins Englische, mit allen Einzelheiten.", LANGUAGES[language]))
    assert reason == (None if language in ("en", "fr") else f"the answer is written in {language!r}")


@pytest.mark.parametrize("text", ["", "7", "Paris", "x = [f(i) for i in range(10)]", "\u222b x\u00b2 dx = x\u00b3/3"])
def test_a_text_whose_language_cannot_be_told_is_kept_unless_it_is_not_wanted(text: str) -> None:
    entry = {"filter": "language", "languages": ["de"]}
    assert checked(entry).reject(row(answer=text)) is None
    unsure = checked({**entry, "unsure": "reject"}).reject(row(answer=text))
    assert unsure == "the language of the row cannot be told"


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        (" \n ", 0.0),
        ("abc", 0.0),
        ("a b\tc", 0.0),
        ("ab12", 0.5),
        ("a 1 2 3", 0.75),
        ("!!!", 1.0),
        ("naïve Straße", 0.0),
        # Signs that stand above or below letters, and those that join them, are part of words.
        ("नमस्ते दुनिया", 0.0),
        ("สวัสดี", 0.0),
        ("你好。", 1 / 3),
        ("\U0001f600a", 0.5),
    ],
)
def test_the_share_of_what_is_no_letter(text: str, share: float) -> None:
    assert non_letter_share(text) == pytest.approx(share)
    limit = {"filter": "non_letters", "max": 0.4}
    assert (checked(limit).reject(row(answer=text)) is not None) == (share > 0.4)


@pytest.mark.parametrize(
    ("text", "n", "share"),
    [
        ("", 2, 0.0),
        ("one", 2, 0.0),
        ("a b c d", 2, 0.0),
        # The second "a b", two letters of five.
        ("a b c a b", 2, 0.4),
        # "bb" counts with both letters: 3 of 7.
        ("a bb c a bb", 2, 3 / 7),
        # The n-grams 2 to 5 are repeated and cover all words but the first.
        ("a a a a a a", 2, 5 / 6),
        ("a a a a a a", 1, 5 / 6),
        ("a b a b a b", 2, 4 / 6),
        ("a b a b a b", 3, 4 / 6),
        ("a b c d e f a b c d e g", 5, 5 / 12),
        ("a b c d e f a b c d e g", 6, 0.0),
    ],
)
def test_the_share_of_repeated_words(text: str, n: int, share: float) -> None:
    assert repeated_share(text, n) == pytest.approx(share)


@given(st.lists(st.sampled_from(["ab", "cd", "efg", "h"]), max_size=30), st.integers(1, 5))
def test_a_share_of_repetition_is_that_of_the_definition(words: list[str], n: int) -> None:
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    repeated = {start + k for start, gram in enumerate(grams) if gram in grams[:start] for k in range(n)}
    total = sum(map(len, words))
    expected = sum(len(words[index]) for index in repeated) / total if total else 0
    share = repeated_share(" ".join(words), n)
    assert share == pytest.approx(expected)
    assert repeated_share(" ".join(words * 2), n) >= share - 1e-12 or not words


def test_rows_are_rejected_by_the_first_filter_that_does() -> None:
    filters = [
        checked({"filter": "length", "of": "answer", "min": 2}),
        checked({"filter": "regex", "pattern": "sorry", "name": "no-excuses"}),
    ]
    rows = [row("hello there", "yes"), row("q", "sorry, no"), row("q", "it is so"), row("sorry", "no")]
    reasons = rejections(filters, rows)
    assert reasons == [
        "filter length: fewer than 2 words in the answer",
        "filter no-excuses: the row matches sorry",
        None,
        "filter length: fewer than 2 words in the answer",
    ]
    assert rejections([], rows) == [None] * 4
    assert rejections(filters, []) == []
    counts = {reason: reasons.count(reason) for reason in reasons if reason} | {"not a JSON object": 5}
    assert counts_by_filter(counts) == {"length": 2, "no-excuses": 1}
    assert why_filtered(counts) == (
        "data.filters: of 8 rejected rows 'length' rejected 2 (fewer than 2 words in the answer), 'no-excuses' "
        "rejected 1 (the row matches sorry); loosen or remove these filters"
    )
    assert why_filtered({"not a JSON object": 5}) is None


def test_only_filters_by_tokens_wait_for_them() -> None:
    entries = [{"filter": "length", "unit": unit, "min": 1} for unit in ("words", "characters", "tokens")]
    assert [checked(entry).needs_tokens for entry in entries] == [False, False, True]


def test_filters_without_a_name_are_numbered_and_two_of_one_name_refused() -> None:
    filters = [
        checked({"filter": "length", "min": 1}),
        checked({"filter": "length", "max": 9, "name": "length-2"}),
        checked({"filter": "length", "max": 8}),
        checked("repetition"),
    ]
    name_filters(filters)
    assert [each.name for each in filters] == ["length", "length-2", "length-3", "repetition"]
    name_filters(filters)
    assert [each.name for each in filters] == ["length", "length-2", "length-3", "repetition"]
    with pytest.raises(ValueError, match="two filters are called 'x'; give one of them another `name`"):
        name_filters(
            [checked({"filter": "turns", "min": 1, "name": "x"}), checked({"filter": "repetition", "name": "x"})]
        )


class _Broken(Filter):
    """A filter that does what its options say."""

    result: Any = None

    def reject(self, row: FilterRow) -> str | None:
        if self.result == "raise":
            raise KeyError("score")
        reason: str | None = self.result
        return reason

    def reject_all(self, rows: Any) -> list[str | None]:
        return [] if self.result == "none" else super().reject_all(rows)


@pytest.mark.parametrize(
    ("result", "what"),
    [
        ("raise", "the filter 'mine' failed: KeyError: 'score'"),
        (True, "the filter 'mine' returned True; expected a reason, or None to keep the row"),
        (" ", "the filter 'mine' returned ' '; expected a reason"),
        ("none", "the filter 'mine' returned 0 results for 1 rows; expected a reason"),
    ],
)
def test_a_filter_that_fails_is_named(result: Any, what: str) -> None:
    with pytest.raises(InputError, match=f"^data.filters: {re.escape(what)}"):
        rejections([_Broken(filter="broken", name="mine", result=result)], [WHOLE])


def test_a_reason_is_one_line_and_no_longer_than_a_table_can_hold() -> None:
    (reason,) = rejections([_Broken(filter="broken", result="a\n" * 300 + "\x1b[0m")], [WHOLE])
    assert reason is not None
    assert reason.startswith("filter broken: a a a") and len(reason) == 200 + len("filter broken: ")
    assert "\n" not in reason and "\x1b" not in reason


def test_settings_name_everything_that_a_choice_depends_on() -> None:
    settings = checked({"filter": "length", "min": 3}).settings()
    assert settings == {
        "version": 1,
        "filter": "length",
        "name": "length",
        "of": "row",
        "unit": "words",
        "min": 3,
        "max": None,
    }


def test_the_registry_has_every_filter_by_its_name() -> None:
    REGISTRY.check()
    assert list(REGISTRY.filters) == ["column", "language", "length", "non_letters", "regex", "repetition", "turns"]
