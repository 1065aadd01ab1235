"""Pool rows that share a long run of words with a target: what would be measured would have been trained on."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

# Vowel signs and accents that stand alone are no letters to Python, and would cut Hindi or Arabic words to pieces.
MARKS = r"\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
SPACED = re.compile(rf"(?:[^\W_]|[{MARKS}])+")
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
UNSPACED_RATIO = 30 / 13
TEMPLATE_WORDS = 5
TEMPLATE_ROWS = 3
TEMPLATE_SHARE = 0.02
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Conversation = list[dict[str, str]]


@dataclass(frozen=True)
class LeakIndex:
    """What is known of the targets' texts.

    Attributes:
        words: length of the run that counts as a leak.
        template: sorted hashes, uint64, of the 5-word runs that are the wording of a target and not its content.
        runs: sorted hashes, uint64, of the targets' runs of `words` words, the wording left out, and of whole
            conversations.
    """

    words: int
    template: np.ndarray
    runs: np.ndarray

    @classmethod
    def of(cls, targets: Sequence[Sequence[Conversation]], words: int) -> "LeakIndex":
        """Index the conversations of each target.

        A 5-word run that stands in at least 3 rows and 2 % of the rows of a target ("answer with one letter ...")
        is wording. It is left out on both sides before runs are compared: a copied question is found by its own
        words, and a question that only shares the target's form is kept.
        """
        template = np.unique(np.concatenate([_empty(), *(_wording(rows) for rows in targets)]))
        bare = cls(words, template, _empty())
        runs = [bare.runs_of(conversation) for rows in targets for conversation in rows]
        return cls(words, template, np.unique(np.concatenate([_empty(), *runs])))

    def runs_of(self, conversation: Conversation) -> np.ndarray:
        """Hashes, uint64, of a conversation's runs of `words` words, the targets' wording left out, and of it whole.

        The whole is what tells a copy of a row too short to hold a run.
        """
        found = [_hashes(["\n".join(message["content"].lower() for message in conversation)])]
        for tokens, scale in _texts(conversation):
            covered = np.zeros(len(tokens), dtype=bool)
            short = round(TEMPLATE_WORDS * scale)
            for start in np.flatnonzero(_among(_runs(tokens, short), self.template)):
                covered[start : start + short] = True
            found.append(_runs(tokens[~covered], round(self.words * scale)))
        return np.concatenate(found)

    def leaks(self, conversation: Conversation) -> bool:
        """Whether a conversation shares a run with a target, or is a row of it."""
        return bool(_among(self.runs_of(conversation), self.runs).any())


def _wording(rows: Sequence[Conversation]) -> np.ndarray:
    per_row = [
        np.unique(np.concatenate([_empty(), *(_runs(t, round(TEMPLATE_WORDS * scale)) for t, scale in _texts(row))]))
        for row in rows
    ]
    runs, rows_with = np.unique(np.concatenate([_empty(), *per_row]), return_counts=True)
    return runs[rows_with >= max(TEMPLATE_ROWS, TEMPLATE_SHARE * len(rows))]


def _texts(conversation: Conversation) -> Iterator[tuple[np.ndarray, float]]:
    """Word hashes of each turn, uint64, and how many of them weigh as much as one word.

    Words are runs of letters and digits without regard to case; scripts that put no spaces between words (Chinese,
    Japanese, Thai, Lao, Khmer, Burmese) are compared by characters, 30 where 13 words are asked for.
    """
    for message in conversation:
        lowered = message["content"].lower()
        yield _hashes(SPACED.findall(UNSPACED.sub(" ", lowered))), 1.0
        yield _hashes(UNSPACED.findall(lowered)), UNSPACED_RATIO


def _hashes(tokens: list[str]) -> np.ndarray:
    digests = (xxhash.xxh3_64_intdigest(token.encode("utf-8", "surrogatepass")) for token in tokens)
    return np.fromiter(digests, dtype=np.uint64, count=len(tokens))


def _runs(hashes: np.ndarray, length: int) -> np.ndarray:
    if len(hashes) < length:
        return _empty()
    windows = np.lib.stride_tricks.sliding_window_view(hashes, length)
    powers = np.cumprod(np.full(length, MULTIPLIER, dtype=np.uint64))
    return (windows * powers).sum(axis=1, dtype=np.uint64)


def _among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Boolean mask: which of `values` stand in the sorted array `known`."""
    if not len(known):
        return np.zeros(len(values), dtype=bool)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return known[places] == values


def _empty() -> np.ndarray:
    return np.empty(0, dtype=np.uint64)
