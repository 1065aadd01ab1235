"""Contamination: pool rows that share a long word n-gram with a target, on which a model would be evaluated."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from instsel.data.messages import Message

# Combining vowel signs and accents are not letters to Python, and would split Hindi or Arabic words.
MARKS = r"\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
SPACED = re.compile(rf"(?:[^\W_]|[{MARKS}])+")
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
UNSPACED_RATIO = 30 / 13
TEMPLATE_WORDS = 5
TEMPLATE_ROWS = 3
TEMPLATE_FRACTION = 0.02
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Messages = Sequence[Message]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class LeakIndex:
    """Hashed n-grams of the targets' texts.

    Attributes:
        words: n, the number of words of an n-gram that counts as a leak.
        template: sorted hashes, uint64, of template n-grams: 5-grams that belong to the form of a target, not to its
            content.
        runs: sorted hashes, uint64, of the targets' n-grams without template n-grams, and of whole conversations.
    """

    words: int
    template: Hashes
    runs: Hashes

    @classmethod
    def of(cls, targets: Sequence[Sequence[Messages]], words: int) -> "LeakIndex":
        """Index the conversations of each target.

        A 5-gram in at least 3 rows and 2 % of the rows of a target ("answer with one letter ...") is a template n-gram.
        Template n-grams are removed from both texts before n-grams are compared, so that a copied question is found by
        its content, and a question that only has the target's form is kept.
        """
        template = np.unique(np.concatenate([_empty(), *(_template_ngrams(rows) for rows in targets)]))
        bare = cls(words, template, _empty())
        ngrams = [bare.ngrams_of(conversation) for rows in targets for conversation in rows]
        return cls(words, template, np.unique(np.concatenate([_empty(), *ngrams])))

    def ngrams_of(self, conversation: Messages) -> Hashes:
        """Hash a conversation's n-grams without the targets' template n-grams, and the whole conversation: uint64.

        The hash of the whole detects copies of rows that are too short for an n-gram.
        """
        hashes = [_hashes(["\n".join(message["content"].lower() for message in conversation)])]
        for tokens, scale in _texts(conversation):
            covered = np.zeros(len(tokens), dtype=bool)
            short = round(TEMPLATE_WORDS * scale)
            for start in np.flatnonzero(_among(_ngrams(tokens, short), self.template)):
                covered[start : start + short] = True
            hashes.append(_ngrams(tokens[~covered], round(self.words * scale)))
        return np.concatenate(hashes)

    def leaks(self, conversation: Messages) -> bool:
        """Return whether a conversation shares an n-gram with a target, or is one of its rows."""
        return bool(_among(self.ngrams_of(conversation), self.runs).any())


def _template_ngrams(rows: Sequence[Messages]) -> Hashes:
    per_row = [
        np.unique(np.concatenate([_empty(), *(_ngrams(t, round(TEMPLATE_WORDS * scale)) for t, scale in _texts(row))]))
        for row in rows
    ]
    ngrams, frequency = np.unique(np.concatenate([_empty(), *per_row]), return_counts=True)
    return ngrams[frequency >= max(TEMPLATE_ROWS, TEMPLATE_FRACTION * len(rows))]


def _texts(conversation: Messages) -> Iterator[tuple[Hashes, float]]:
    """Yield the word hashes of each turn, uint64, with the number of tokens that correspond to a word.

    Words are case-insensitive runs of letters and digits. Scripts without spaces between words (Chinese, Japanese,
    Thai, Lao, Khmer, Burmese) are compared by characters, 30 of them in place of 13 words.
    """
    for message in conversation:
        lowered = message["content"].lower()
        yield _hashes(SPACED.findall(UNSPACED.sub(" ", lowered))), 1.0
        yield _hashes(UNSPACED.findall(lowered)), UNSPACED_RATIO


def _hashes(tokens: list[str]) -> Hashes:
    digests = (xxhash.xxh3_64_intdigest(token.encode("utf-8", "surrogatepass")) for token in tokens)
    return np.fromiter(digests, dtype=np.uint64, count=len(tokens))


def _ngrams(hashes: Hashes, length: int) -> Hashes:
    """Hash all windows of `length` tokens."""
    if len(hashes) < length:
        return _empty()
    windows = np.lib.stride_tricks.sliding_window_view(hashes, length)
    powers = np.cumprod(np.full(length, MULTIPLIER, dtype=np.uint64))
    ngrams: Hashes = (windows * powers).sum(axis=1, dtype=np.uint64)
    return ngrams


def _among(values: Hashes, known: Hashes) -> NDArray[np.bool_]:
    """Return a mask of the values that are in the sorted array `known`."""
    if not len(known):
        return np.zeros(len(values), dtype=bool)
    nearest = np.minimum(np.searchsorted(known, values), len(known) - 1)
    mask: NDArray[np.bool_] = known[nearest] == values
    return mask


def _empty() -> Hashes:
    return np.empty(0, dtype=np.uint64)
