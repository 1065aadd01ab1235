"""Copies of target rows are found, the wording that a target's rows share is not, in every script."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.data.contamination import LeakIndex

WORDS = 13
FRUIT = [
    "apple",
    "pear",
    "plum",
    "fig",
    "lime",
    "melon",
    "date",
    "grape",
    "peach",
    "mango",
    "kiwi",
    "lemon",
    "cherry",
    "quince",
    "guava",
    "papaya",
]


def talk(*turns: str) -> list[dict[str, str]]:
    roles = ["user", "assistant"]
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(turns)]


def numbered(count: int, start: int = 0) -> str:
    """A text of so many words that no other text has."""
    return " ".join(f"w{number}" for number in range(start, start + count))


def index(*targets: list[Any], words: int = WORDS) -> LeakIndex:
    return LeakIndex.of(targets, words)


def story(number: int) -> str:
    """A question of 20 words or so, with hardly a run of words like another's."""
    rng = np.random.default_rng(number)
    return " ".join(f"{FRUIT[rng.integers(len(FRUIT))]}{rng.integers(10_000)}" for _ in range(20))


STORIES = [talk(story(number), f"It is {number}.") for number in range(100)]


def test_every_copied_row_is_found_and_no_other_is() -> None:
    known = index(STORIES[:50])
    assert all(known.leaks(row) for row in STORIES[:50])
    assert not any(known.leaks(row) for row in STORIES[50:])


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda text: text.replace(" ", "  \n"),
        lambda text: text.replace(" ", ", ") + "!",
        lambda text: f"Please answer this: {text} Thank you.",
        lambda text: "_".join(text.split()),
    ],
    ids=["case", "white space", "punctuation", "in a longer text", "underscores"],
)
def test_a_copy_is_found_whatever_its_dress(change: Any) -> None:
    known = index(STORIES)
    assert known.leaks(talk("Hello.", change(story(3))))


@pytest.mark.parametrize("words", [3, 5, 13, 20])
def test_a_run_counts_from_so_many_words_on(words: int) -> None:
    known = index([talk(numbered(100))], words=words)
    assert known.leaks(talk("x " + numbered(words, 40) + " y"))
    assert not known.leaks(talk("x " + numbered(words - 1, 40) + " y"))
    assert not known.leaks(talk(numbered(words - 1, 40) + " between " + numbered(words - 1, 60)))


def test_a_run_lies_within_one_turn() -> None:
    known = index([talk(numbered(7), numbered(7, 7))])
    assert not known.leaks(talk(numbered(14)))
    assert not index([talk(numbered(14))]).leaks(talk(numbered(7), numbered(7, 7)))


FORM = "Read the question below with care and answer with the letter of the right choice only, nothing else."


def test_the_wording_of_a_target_alone_is_no_leak() -> None:
    target = [talk(f"{FORM} {story(number)}", "A") for number in range(20)]
    known = index(target)
    assert not known.leaks(talk(f"{FORM} Is it so?", "B"))
    assert not known.leaks(talk(f"{FORM} {story(999)}", "B"))
    assert all(known.leaks(talk(story(number))) for number in range(20))
    assert all(known.leaks(row) for row in target)


def test_words_before_and_after_the_wording_make_one_run() -> None:
    """What is left of a row when the wording is gone is compared as it stands, on both sides."""
    target = [talk(f"{numbered(7, 100 * n)} {FORM} {numbered(7, 100 * n + 7)}") for n in range(3)]
    known = index(target)
    assert known.leaks(target[0])
    assert known.leaks(talk(numbered(14)))


@pytest.mark.parametrize(
    ("rows", "copies", "wording"), [(10, 2, False), (10, 3, True), (200, 3, False), (200, 4, True)]
)
def test_wording_stands_in_three_rows_and_two_percent(rows: int, copies: int, wording: bool) -> None:
    target = [talk(f"{FORM} {story(n)}" if n < copies else story(n)) for n in range(rows)]
    assert index(target).leaks(talk(FORM)) == (not wording)


def test_wording_is_counted_by_rows_of_one_target() -> None:
    said_often = talk(" ".join([numbered(20)] * 4))
    assert index([said_often, *STORIES]).leaks(talk(numbered(20)))
    targets = [[talk(f"{FORM} {story(n)}"), *STORIES] for n in range(3)]
    assert index(*targets).leaks(talk(FORM))


CHINESE = "小明在商店里买了三个苹果和五个梨子后来他又给了妹妹两个苹果请问小明现在一共还有多少个水果呢"
JAPANESE = "東京の駅から大阪の駅まで新幹線で二時間半かかりますがもし途中の名古屋で三十分休んだら何時間かかりますか"
THAI = "แม่ซื้อส้มสิบสองผลจากตลาดแล้วแบ่งให้ลูกสามคนเท่าๆกันลูกแต่ละคนจะได้ส้มกี่ผล"


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, THAI], ids=["Chinese", "Japanese", "Thai"])
def test_scripts_without_spaces_are_compared_by_thirty_characters(text: str) -> None:
    known = index([talk(text)])
    assert known.leaks(talk(f"请: {text[5:35]}!"))
    assert known.leaks(talk(" ".join(text)))
    assert not known.leaks(talk(text[5:34]))
    assert not known.leaks(talk(text[::-1]))


@pytest.mark.parametrize(
    "text",
    [
        "Мама купила двенадцать апельсинов на рынке и разделила их поровну между тремя детьми по сколько получил он",
        "اشترت الأم اثني عشر برتقالة من السوق وقسمتها بالتساوي بين أطفالها الثلاثة فكم برتقالة حصل عليها كل طفل",
        "엄마가 시장에서 오렌지 열두 개를 사서 세 아이에게 똑같이 나누어 주면 한 아이가 받는 오렌지는 모두 몇 개",
        "एक किसान ने बाज़ार से बारह संतरे ख़रीदे और उन्हें अपने तीनों बच्चों में बराबर बाँट दिया तो हर बच्चे को कितने मिले",
        "كَتَبَ الوَلَدُ الدَّرْسَ فِي دَفْتَرِهِ ثُمَّ قَرَأَهُ عَلَى أُمِّهِ وَأَبِيهِ وَإِخْوَتِهِ قَبْلَ النَّوْمِ وَفَرِحَ بِهِ",
        "L’e\u0301te\u0301 dernier ma me\u0300re a pris douze oranges au marche\u0301 puis les a donne\u0301es a nous",
    ],
    ids=["Russian", "Arabic", "Korean", "Hindi", "Arabic with vowels", "French, decomposed"],
)
def test_other_scripts_are_compared_by_words(text: str) -> None:
    known = index([talk(text)])
    words = text.replace("’", " ").split()
    assert known.leaks(talk(" ".join(words[1:14])))
    assert not known.leaks(talk(" ".join(words[1:13])))


def test_mixed_scripts_are_compared_apart() -> None:
    known = index([talk(" ".join(f"{sign} {word}" for sign, word in zip(CHINESE, numbered(40).split(), strict=False)))])
    assert known.leaks(talk(CHINESE[:30]))
    assert known.leaks(talk(numbered(13)))


def _runs(text: str, words: int) -> set[tuple[str, ...]]:
    parts = text.split()
    return {tuple(parts[start : start + words]) for start in range(len(parts) - words + 1)}


_texts = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=30).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(st.lists(_texts, max_size=2), _texts, st.integers(3, 8))
def test_runs_are_those_of_a_naive_search(target: list[str], text: str, words: int) -> None:
    """Two rows are too few for any wording, so every shared run is a leak, and so is a whole row."""
    known = LeakIndex.of([[talk(row) for row in target]], words)
    expected = bool(_runs(text, words) & {run for row in target for run in _runs(row, words)})
    expected |= text.lower() in [row.lower() for row in target]
    assert known.leaks(talk(text)) == expected


def test_without_texts_nothing_leaks() -> None:
    for known in (index(), index([])):
        assert (len(known.runs), known.runs.dtype) == (0, np.uint64)
        assert not known.leaks(talk(story(1)))
    assert not index([talk("too short")]).leaks(talk(story(1)))
    assert not index(STORIES).leaks(talk("", "!?"))


def test_an_index_is_two_sorted_arrays_that_do_not_depend_on_the_order_of_rows() -> None:
    one, other = index(STORIES[:9], STORIES[9:]), index(STORIES[9:], STORIES[8::-1])
    assert np.array_equal(one.runs, other.runs)
    assert np.array_equal(one.template, other.template)
    assert bool((np.diff(one.runs) > 0).all())
    assert LeakIndex(WORDS, one.template, one.runs).leaks(STORIES[4])


def test_a_copy_of_a_short_target_row_is_found() -> None:
    target = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "Paris"},
    ]
    index = LeakIndex.of([[target]], 13)
    assert index.leaks(target)
    assert not index.leaks([target[0], {"role": "assistant", "content": "Lyon"}])
