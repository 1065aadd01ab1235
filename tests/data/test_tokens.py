"""Texts in pieces become the same tokens as whole, and tokens are found by characters."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import instsel.data.tokens as module
from instsel.data.tokens import Tokenizer
from tests.data.template_cases import tokenizer_for

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
# As the tokenizers of these families split texts into words.
PATTERNS = {
    "Llama 3": rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}",
    "Qwen 2": rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}",
    "gpt-oss": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"
    ),
}
KINDS = ["GPT-2", "digits", *PATTERNS]
FORMS = {
    "a letter, then all": r"\p{L}[\s\S]*|[\s\S]",
    "blanks end words": r"[^ ]+ |[^ ]+| +",
    "lines": r"[^\n]*\n?",
    "a line break joins": r"\n?\p{L}+|[\s\S]",
}


def with_words(pattern: str | None, *, digits: bool = False) -> Any:
    """The small tokenizer, its texts split by another pattern."""
    from tokenizers import Regex, pre_tokenizers

    tokenizer = copy.deepcopy(tokenizer_for("<|im_start|><|im_end|> {{ messages }}"))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if pattern is None:
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False))
    else:
        steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


@pytest.fixture(scope="module", params=KINDS)
def pieced(request: pytest.FixtureRequest) -> Tokenizer:
    """A tokenizer of each kind, which is used by pieces."""
    tokenizer = Tokenizer(with_words(PATTERNS.get(request.param), digits=request.param == "digits"))
    assert tokenizer._by_pieces
    return tokenizer


_texts = st.text(alphabet="abzA09 \n\t\r.,'()-_/<>\\{é日\u0301😀\u00a0\u2028\x1c\x85’д٣", max_size=30)
_joined = st.lists(st.one_of(_texts, st.sampled_from(["<|im_end|>", " the", "it's", ".\n\n", "\n", "  "])), max_size=6)


@settings(max_examples=200, deadline=None)
@given(_joined.map("".join))
def test_words_are_the_same_in_pieces_and_whole(pieced: Tokenizer, text: str) -> None:
    """Of words, not only of tokens: which tokens there are is by chance."""
    for part in text.split("<|im_end|>"):
        assert [word for piece in module._PIECE.findall(part) for word in pieced._words(piece)] == pieced._words(part)
    assert "".join(pieced._cut(text).pieces) == text
    (left,), (right,) = pieced.encode([text]), pieced._whole([text])
    assert left.ids == right.ids


@settings(max_examples=200, deadline=None)
@given(_joined.map("".join), st.data())
def test_tokens_are_found_by_characters(pieced: Tokenizer, text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    limit = data.draw(st.integers(end, len(text)))
    (left,), (right,) = pieced.encode([text]), pieced._whole([text])
    if start < end:
        assert left.tokens_of(start, end, limit) == right.tokens_of(start, end, limit)


def test_tokens_that_reach_into_characters() -> None:
    whole = module._Whole([1, 2, 3, 4], [(0, 2), (2, 5), (5, 5), (5, 9)])
    assert whole.tokens_of(0, 2, 9) == (0, 1)
    # One that reaches over the beginning counts, and one that reaches over the limit does not.
    assert whole.tokens_of(3, 6, 9) == (1, 4)
    assert whole.tokens_of(3, 6, 8) == (1, 3)
    # Tokens without width count at the end of what they stand for.
    assert whole.tokens_of(2, 5, 5) == (1, 3)
    assert whole.tokens_of(5, 9, 9) == (3, 4)


@pytest.mark.parametrize("form", FORMS)
def test_another_way_of_splitting_is_left_to_the_library(form: str) -> None:
    tokenizer = Tokenizer(with_words(FORMS[form]))
    texts = ["To be,\nor not  to be", "12 a\n\nb <|im_end|>"]
    for left, right in zip(tokenizer.encode(texts), tokenizer._whole(texts), strict=True):
        assert left.ids == right.ids
    assert not tokenizer._by_pieces


@pytest.mark.parametrize(
    "token",
    [{"single_word": True}, {"lstrip": True}, {"rstrip": True}, {"normalized": True}],
    ids=lambda token: next(iter(token)),
)
def test_tokens_that_take_what_is_around_them_are_left_to_the_library(token: dict[str, bool]) -> None:
    from tokenizers import AddedToken

    tokenizer = with_words(None)
    tokenizer.add_tokens([AddedToken("<mask>", special=True, **{"normalized": False, **token})])
    assert not Tokenizer(tokenizer)._by_pieces


def test_sentencepiece_is_left_to_the_library() -> None:
    tokenizer = Tokenizer(tokenizer_for("{{ messages }}", kind="sentencepiece"))
    assert not tokenizer._by_pieces
    (text,) = tokenizer.encode(["It slept."])
    assert text.ids == tokenizer._tokenizer("It slept.", add_special_tokens=False)["input_ids"]
    assert tokenizer.encode([]) == []


def test_words_that_still_occur_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_PIECES", 20)
    tokenizer = Tokenizer(with_words(None))
    encoded: list[str] = []
    encode = tokenizer._encode_pieces
    monkeypatch.setattr(tokenizer, "_encode_pieces", lambda pieces: encoded.extend(pieces) or encode(pieces))
    for number in range(100):
        tokenizer.encode([f"the word {chr(97 + number % 26)}{chr(97 + number // 26)}{number}"])
    assert encoded.count("the") == encoded.count(" word") == 1
    assert len(tokenizer._ids) + len(tokenizer._earlier) < 70


def test_what_many_texts_have_between_two_tokens_is_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_LEARNT", 20)
    tokenizer = Tokenizer(with_words(None))
    preamble = "system\nYou are a sailor, and answer as one. Today is 9 March."
    texts = [f"<|im_start|>{preamble}<|im_end|><|im_start|>user\nWhat is {number}?<|im_end|>" for number in range(30)]
    before = [text.ids for text in tokenizer.encode(texts)]
    assert tokenizer._cut(texts[0]).pieces[:3] == ["<|im_start|>", preamble, "<|im_end|>"]
    for earlier, left, right in zip(before, tokenizer.encode(texts), tokenizer._whole(texts), strict=True):
        assert earlier == left.ids == right.ids
        assert left.tokens_of(20, 90, 90) == right.tokens_of(20, 90, 90)


def test_nothing_is_kept_of_long_pieces() -> None:
    tokenizer = Tokenizer(with_words(None))
    before = len(tokenizer._ids)
    (text,) = tokenizer.encode(["日本" * 40])
    assert len(tokenizer._ids) == before
    assert text.tokens_of(10, 20, 20) == tokenizer._whole(["日本" * 40])[0].tokens_of(10, 20, 20)
