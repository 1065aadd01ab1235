"""Copies of target rows are found, the wording that a target's rows share is not, in every script."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.data import contamination
from instsel.data.contamination import NEAR_COPY, SAME_PROMPT, SHARED_RUN, LeakIndex
from instsel.data.words import Words

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


def _is_inside(prompt: str, text: str) -> bool:
    length, whole = len(prompt.split()), len(text.split())
    return length >= 5 and bool(_runs(prompt, length) & _runs(text, length)) and (length >= 8 or 2 * length > whole)


def _is_nearly(prompt: str, text: str) -> bool:
    shingles, fives = _runs(prompt, 3), _runs(prompt, 5)
    missing = len(shingles - _runs(text, 3))
    if len(text.split()) < len(prompt.split()) - 1:
        return False
    return (
        len(shingles) >= 8 and missing <= max(3, len(shingles) / 4) and _touches(fives, text) >= _least_touches(prompt)
    )


def _least_touches(prompt: str) -> float:
    return max(3, len(prompt.split()) / 4)


def _touches(fives: set[tuple[str, ...]], text: str) -> int:
    parts = text.split()
    return sum(tuple(parts[start : start + 5]) in fives for start in range(len(parts) - 4))


_texts = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=30).map(" ".join)


@settings(max_examples=400, deadline=None)
@given(st.lists(_texts, max_size=2), _texts, st.integers(3, 14))
def test_leaks_are_those_of_a_naive_search(target: list[str], text: str, words: int) -> None:
    """Two rows are too few for a form: what either of them has counts."""
    known = LeakIndex.of([[talk(row) for row in target]], words)
    expected = bool(_runs(text, words) & {run for row in target for run in _runs(row, words)})
    expected |= text in target
    expected |= any(len(row.split()) < words and _is_inside(row, text) for row in target)
    expected |= any(len(row.split()) >= words and _is_nearly(row, text) for row in target)
    assert known.leaks(talk(text)) == expected


@settings(max_examples=100, deadline=None)
@given(_texts, st.integers(0, 29), st.sampled_from(["e", "f", ""]))
def test_a_changed_word_leaves_a_near_copy(text: str, place: int, word: str) -> None:
    """Questions of 6 words or more, with their answer: a word is another, or left out."""
    parts = text.split()
    parts[place % len(parts)] = word
    known = LeakIndex.of([[talk(text, "It is red.")]], WORDS)
    is_long = len(_runs(text, 3)) >= 8 or len(text.split()) < WORDS
    if (
        len(text.split()) >= 6
        and is_long
        and (len(parts) < WORDS or _touches(_runs(text, 5), " ".join(parts)) >= _least_touches(text))
    ):
        assert known.leaks(talk(" ".join(parts), "It is red."))
    if len(parts) < 6:
        assert not known.leaks(talk(" ".join(parts), "It is red."))


QUESTION = "Who sang the song 'I will always love you'?"
SYSTEM = {"role": "system", "content": "You are a helpful assistant who answers in one word."}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (talk(QUESTION, "Whitney Houston"), SHARED_RUN),
        ([SYSTEM, *talk(QUESTION, "Whitney Houston!")], SHARED_RUN),
        (talk(QUESTION, "Dolly Parton sang it first."), SAME_PROMPT),
        ([SYSTEM, *talk(QUESTION, "Dolly Parton")], SAME_PROMPT),
        (talk("WHO sang the song:\tI will always love you", "Dolly"), SAME_PROMPT),
        (talk("Hello!", "Hello.", QUESTION, "Dolly"), SAME_PROMPT),
        (talk(QUESTION, "Dolly", "And who wrote it?", "She did."), SAME_PROMPT),
        (talk(f"Please answer in one word. {QUESTION}", "Dolly"), SAME_PROMPT),
        (talk(f"{story(101)} {QUESTION} {story(102)}", "Dolly"), SAME_PROMPT),
        (talk("Who sang the tune 'I will always love you'?", "Whitney Houston"), NEAR_COPY),
        (talk("Who first sang the song 'I will always love you'?", "Whitney Houston."), NEAR_COPY),
        (talk("Who sang the song 'I always love you'?", "whitney houston"), NEAR_COPY),
        (talk("Who sang the tune 'I will always love you'?", "Dolly Parton"), None),
        (talk("Who sang the tune 'I will always hate you'?", "Whitney Houston"), None),
        (talk("I will always love you", "And I you."), None),
        (talk("Tell me a song.", QUESTION), None),
    ],
)
def test_a_short_question_is_found_whatever_its_answer(row: Any, reason: str | None) -> None:
    assert index([talk(QUESTION, "Whitney Houston"), *STORIES[:40]]).reason(row) == reason


@pytest.mark.parametrize(
    ("prompt", "other", "leaks"),
    [
        ("Who wrote Hamlet?", "who wrote hamlet", True),
        ("Who wrote Hamlet?", "Tell me: who wrote Hamlet and when?", False),
        ("What is 2+3?", "What is 2 + 3 ?", True),
        ("What is 2+3?", "What is 2-3?", False),
        ("What is 2+3?", "What is 2+4?", False),
        ("2+3=?", "2 + 3", True),
        ("中国的首都是哪个城市", "中国的首都是哪个城市？", True),
        ("中国的首都是哪个城市", "日本的首都是哪个城市", False),
        ("Yes", "yes!", False),
        ("Continue.", "Continue", False),
        ("Hello", "Hello!", False),
        ("Thank you!", "thank you", False),
        ("继续", "继续。", False),
        ("😀", "😀", False),
    ],
)
def test_prompts_of_less_than_three_words_are_anyones(prompt: str, other: str, leaks: bool) -> None:
    known = index([talk(prompt, "One answer.")])
    assert known.leaks(talk(other, "Quite another answer.")) == leaks
    assert known.leaks(talk(prompt.upper(), "one answer"))


def test_a_number_makes_another_question() -> None:
    known = index([talk("How many apples are 12 apples and more?", "It is 14.")])
    assert known.leaks(talk("How many pears are 12 apples and more?", "It is 14."))
    assert not known.leaks(talk("How many apples are 13 apples and more?", "It is 14."))


def test_an_answer_that_is_a_label_says_little() -> None:
    target = [talk(f"Is the film {FRUIT[n]} based on a book?", "Yes" if n % 2 else "No") for n in range(8)]
    known = index(target)
    assert known.leaks(talk(target[0][0]["content"], "Yes"))
    assert not known.leaks(talk("Is the film quince based on a book?", "Yes"))


def test_a_prompt_of_several_rows_is_the_form_of_a_target() -> None:
    target = [talk("Write a short poem about love, please.", story(n)) for n in range(3)]
    assert not index([*target, *STORIES]).leaks(talk("Write a short poem about love, please.", "No."))
    assert index([*target[:2], *STORIES]).leaks(talk("Write a short poem about love, please.", "No."))


def test_the_prompt_of_a_conversation_is_all_that_the_user_says() -> None:
    known = index([talk("Name a large city in Peru.", "Lima", "What do people eat there?", "Fish.")])
    assert known.leaks(talk("Name a large city in Peru.", "Cusco", "What do people eat there?", "Potatoes."))
    assert known.leaks(talk("Name a large city in Peru.", "Cusco", "What do people eat there?", "Corn.", "Why?", "So."))
    assert not known.leaks(talk("What do people eat there?", "Fish."))
    assert not known.leaks(talk("Name a large city in Peru.", "Lima"))


@pytest.mark.parametrize(
    ("change", "leaks"),
    [
        (lambda words: [*words[:7], "other", *words[8:]], True),
        (lambda words: ["Please", "note:", *words[:7], "other", *words[8:]], True),
        (lambda words: [*words[:7], *words[8:]], True),
        (lambda words: [*words[:5], "other", *words[6:10], "other", *words[11:]], False),
        (lambda words: words[8:], False),
    ],
    ids=["a word", "a word and a prefix", "a word less", "two words", "half of it"],
)
def test_a_near_copy_of_a_long_prompt_is_found(change: Any, leaks: bool) -> None:
    words = numbered(15).split()
    row = talk(" ".join(change(words)), "Another answer.")
    assert index([talk(" ".join(words), "An answer.")]).reason(row) == (NEAR_COPY if leaks else None)


@pytest.mark.parametrize(
    ("prompt", "leaks"),
    [
        (f"Note well. {FORM} cherry tart recipe", True),
        (f"{FORM.replace('care', 'attention')} cherry tart recipe", True),
        (f"Cherry tart recipe: {FORM} cherry tart recipe", True),
        (f"{FORM} sour cherry tart recipe", False),
        (f"{FORM} cherry tart recipe book", False),
        (f"{FORM} cherry cake recipe", False),
        (f"{FORM} tart recipe", False),
        ("Give me a cherry tart recipe", False),
    ],
)
def test_a_long_prompt_with_a_short_content_is_found_with_words_around(prompt: str, leaks: bool) -> None:
    target = [talk(f"{FORM} {content}", "A") for content in ("cherry tart recipe", "blue sea water", "old oak trees")]
    assert index(target).reason(talk(prompt, "B")) == (NEAR_COPY if leaks else None)


def test_words_that_a_form_and_a_content_share_make_another_prompt() -> None:
    """Names that stand in several rows belong to the form, and are not all that a prompt is about."""
    names = ["apple", "pear", "plum"]
    facts = ["grows upon old trees", "was sold at noon"]
    target = [talk(f"{FORM} The fruit {name} {fact}", "A") for name in names for fact in facts]
    target.append(talk(f"{FORM} The fruit plum has no stone", "A"))
    known = index(target)
    assert known.reason(talk(f"Well. {FORM} The fruit plum has no stone", "B")) == NEAR_COPY
    assert known.reason(talk(f"{FORM} The fruit pear has no stone", "B")) is None


def test_without_texts_nothing_leaks() -> None:
    for known in (index(), index([])):
        assert (len(known.runs), known.runs.dtype) == (0, np.uint64)
        assert not known.leaks(talk(story(1)))
    assert not index([talk("too short")]).leaks(talk(story(1)))
    assert not index(STORIES).leaks(talk("", "!?"))


def test_an_index_is_arrays_that_it_can_be_made_of_again() -> None:
    one, other = index(STORIES[:9], STORIES[9:]), index(STORIES[9:], STORIES[8::-1])
    assert np.array_equal(one.runs, other.runs)
    assert np.array_equal(one.template, other.template)
    assert np.array_equal(one.prompts.same, other.prompts.same)
    assert bool((np.diff(one.runs) > 0).all())
    again = LeakIndex.from_arrays(WORDS, one.arrays())
    changed = talk(story(4).rsplit(" ", 8)[0], "It is 4.")
    for row in (STORIES[4], changed, talk(story(101))):
        assert again.reason(row) == one.reason(row)


def test_a_form_that_a_long_row_repeats_is_not_compared_with_each_prompt_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that repeats the first words of 60 prompts is looked at once for each of the lengths of these."""
    places = [f"{first}{second}ia{third}" for first in "bdgkl" for second in "aei" for third in "lnrt"]
    rows = [talk(f"what is the capital of {place}", "no idea") for place in places]
    others = [talk(" ".join(f"w{number}x{place}" for place in places[:20]), "no idea") for number in range(3_000)]
    index = LeakIndex.of([[*rows, *others]], 13)
    hashed = 0
    span_hash = Words.span_hash

    def counted(words: Words, start: int, end: int) -> int:
        nonlocal hashed
        hashed += 1
        return span_hash(words, start, end)

    monkeypatch.setattr(Words, "span_hash", counted)
    assert index.reason(talk("what is the capital of " * 500, "no idea")) is None
    assert 500 <= hashed <= 600


@pytest.mark.parametrize("targets", [[], [[]], [[talk("?!", "...")]]])
def test_without_words_of_targets_rows_are_not_split_into_words(
    targets: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = LeakIndex.of(targets, 13)
    monkeypatch.setattr(contamination, "words_of_all", None)
    assert index.reason(talk("What is this?", "A pool without targets.")) is None


def test_fault_19_rows_are_judged_together_as_one_by_one() -> None:
    targets = [
        STORIES[:50],
        [talk("What is two plus three minus one?", "4"), talk("法国的首都是哪个城市，请回答", "巴黎")],
    ]
    known = LeakIndex.of(targets, WORDS)
    story_and_more = talk("Here is one. " + STORIES[3][0]["content"], "Fine.")
    edited = talk("What is six plus three minus one?", "4")
    rows = [
        *STORIES[40:60],
        *(row for target in targets for row in target),
        edited,
        story_and_more,
        talk("法国的首都是哪个城市，请你回答", "巴黎"),
        talk("日本的首都是哪个城市", "东京"),
        talk("2 + 2 = 4, so x = y", "Yes."),
        [],
        talk("", ""),
    ]
    reasons = known.reasons(rows)
    assert reasons == [known.reason(row) for row in rows]
    assert {SHARED_RUN, NEAR_COPY, None} <= set(reasons)
    assert known.reasons([]) == []
