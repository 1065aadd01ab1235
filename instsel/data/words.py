"""Words of conversations as numbers: what contamination and near-copies are compared by.

Words are case-insensitive runs of letters and digits. Scripts without spaces between words (Chinese, Japanese, Thai,
Lao, Khmer, Burmese) are taken by characters. Punctuation and white space do not count, signs do where they carry the
content: `2+3`, `x = y`, emoji.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import compress
from operator import itemgetter
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Messages = Sequence[Mapping[str, Any]]

# Combining vowel signs and accents are not letters to Python, and would split Hindi or Arabic words.
MARKS = r"\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
SYMBOLS = r"\u00d7\u00f7\u2190-\u23ff\u2600-\u27bf\U0001f000-\U0001faff"
# A sign between a number or a single letter and what follows it, or the other way round: not the hyphen of a word.
_OPERATION = (
    # Most of a text is none of these: one look in place of one at each of the following.
    r"(?=[-+*/^=<>%!&|#])(?:"
    r"(?:(?<=[0-9])|(?<=[0-9] )|(?<=\b[a-z])|(?<=\b[a-z] ))[-+*/^=<>%]+(?= ?[a-z0-9])"
    r"|(?:(?<=[a-z0-9])|(?<=[a-z0-9] ))[-+*/^=<>%]+(?= ?(?:[0-9]|[a-z]\b))"
    # Between the names of a program, with spaces or without.
    r"|(?<=[\w)\]'\"] )(?:[-+*/^=<>%]+|!=+|&&|\|\|)(?= [\w(\['\"])"
    r"|(?<=[\w)\]'\"])(?:[+=<>]+|!=+|&&|\|\|)(?=[\w(\['\"])"
    # A number below zero, per cent, C++ and C#.
    r"|(?<![a-z0-9])-(?=[0-9])|(?:(?<=[0-9])|(?<=[0-9] ))%|(?<=\b[a-z])(?:\+\+|#)(?![a-z0-9]))"
)
_ASCII = re.compile(rf"[a-z0-9]+|{_OPERATION}".encode())
_OTHER = re.compile(rf"[{UNSPACED}{SYMBOLS}]|[^\W_{UNSPACED}]+|{_OPERATION}")
_MARKED = re.compile(rf"[{UNSPACED}{SYMBOLS}]|(?:[^\W_{UNSPACED}]|[{MARKS}])+|{_OPERATION}")
_HAS_MARK = re.compile(f"[{MARKS}]")
_ALONE = re.compile(f"[{UNSPACED}{SYMBOLS}]")
_CHARACTER = re.compile(f"[{UNSPACED}]")

WORD, NUMBER, SIGN, CHARACTER = 0, 1, 2, 3
_DIGITS = b"0123456789"
_LETTERS = b"abcdefghijklmnopqrstuvwxyz" + bytes(range(128, 256))
_BY_FIRST = bytes(NUMBER if code in _DIGITS else WORD if code in _LETTERS else SIGN for code in range(256))
_BY_LAST = bytes(NUMBER if code in _DIGITS else WORD for code in range(256))
WORDS_PER_CHARACTER = 13 / 30
MULTIPLIER = 0x9E3779B97F4A7C15
_MODULUS = 1 << 64
_INVERSE = pow(MULTIPLIER, -1, _MODULUS)


@dataclass(frozen=True)
class Words:
    """Words of a conversation, turn after turn.

    Attributes:
        hashes: of the words, uint64 (n,).
        kinds: WORD, NUMBER, SIGN or CHARACTER of each, uint8 (n,).
        ends: where each turn ends.
        roles: of the turns.
    """

    hashes: Hashes
    kinds: NDArray[np.uint8]
    ends: Sequence[int]
    roles: Sequence[str]

    @cached_property
    def turns(self) -> NDArray[np.int64]:
        """Index of the turn of each word, int64 (n,)."""
        lengths = [end - start for start, end in self.spans]
        return np.repeat(np.arange(len(lengths)), np.array(lengths, dtype=np.int64))

    @property
    def spans(self) -> Iterator[tuple[int, int]]:
        """Where each turn starts and ends."""
        return zip([0, *self.ends[:-1]][: len(self.ends)], self.ends, strict=True)

    @cached_property
    def has_characters(self) -> bool:
        """Whether some of it is in a script without spaces between words."""
        return bool(self.kinds.max(initial=WORD) == CHARACTER)

    @cached_property
    def has_signs(self) -> bool:
        """Whether some of it is signs."""
        return bool((self.kinds == SIGN).any())

    @cached_property
    def turn_hashes(self) -> list[int]:
        """Hash of each turn as a whole; 0 without words."""
        return [self.span_hash(start, end) for start, end in self.spans]

    def span_hash(self, start: int, end: int) -> int:
        """Hash a span of words as a whole; 0 for no words."""
        return text_hash(self.hashes[start:end])

    def weight(self, start: int, end: int) -> float:
        """Return how many words a span is worth: 30 characters of scripts without spaces are 13 words."""
        characters = int((self.kinds[start:end] == CHARACTER).sum()) if self.has_characters else 0
        return end - start - characters * (1 - WORDS_PER_CHARACTER)

    def without_signs(self) -> "Words":
        """Return the words alone."""
        if not self.has_signs:
            return self
        return self._select(self.kinds != SIGN, [True] * len(self.ends))

    def of_role(self, role: str) -> "Words":
        """Return the turns of a role alone."""
        chosen = [speaker == role for speaker in self.roles]
        return self if all(chosen) else self._select(self.mask(role), chosen)

    def mask(self, role: str) -> NDArray[np.bool_]:
        """Return a mask of the words that a role says."""
        mask = np.zeros(len(self.hashes), dtype=bool)
        for (start, end), speaker in zip(self.spans, self.roles, strict=True):
            if speaker == role:
                mask[start:end] = True
        return mask

    def _select(self, words: NDArray[np.bool_], turns: Sequence[bool]) -> "Words":
        counts = np.cumsum(words)
        ends = [int(counts[end - 1]) if end else 0 for end in self.ends]
        return Words(
            self.hashes[words], self.kinds[words], list(compress(ends, turns)), list(compress(self.roles, turns))
        )


def words_of(conversation: Messages) -> Words:
    """Split the turns of a conversation into words.

    A turn's text is its content and all else it says: calls of tools, reasoning.
    """
    return words_of_all([conversation])[0]


def words_of_all(conversations: Sequence[Messages]) -> list[Words]:
    """Split the turns of many conversations into words; see `words_of`."""
    hashes, firsts, lasts, rows = list[int](), list[bytes](), list[bytes](), list[tuple[int, int, list[int]]]()
    for conversation in conversations:
        start, ends = len(hashes), list[int]()
        for message in conversation:
            of_turn, first, last = _split(turn_text(message))
            hashes += of_turn
            firsts.append(first)
            lasts.append(last)
            ends.append(len(hashes) - start)
        rows.append((start, len(hashes), ends))
    all_hashes = np.fromiter(hashes, dtype=np.uint64, count=len(hashes))
    kinds = np.maximum(*(np.frombuffer(b"".join(parts), dtype=np.uint8) for parts in (firsts, lasts)))
    return [
        Words(all_hashes[start:stop], kinds[start:stop], ends, [message["role"] for message in conversation])
        for conversation, (start, stop, ends) in zip(conversations, rows, strict=True)
    ]


def turn_text(message: Mapping[str, Any]) -> str:
    """Return the text of a turn: what is not a role, a number or a mark; structures as JSON."""
    content = message.get("content")
    others = [value for key, value in message.items() if key not in ("role", "content")]
    if isinstance(content, str) and not others:
        return content
    return "\n".join(text for text in map(_as_text, [content, *others]) if text)


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    structured = isinstance(value, Mapping | Sequence) and len(value) > 0
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str) if structured else ""


def _split(text: str) -> tuple[list[int], bytes, bytes]:
    """Return the hashes of the words of a text, and their kinds by their first and by their last bytes."""
    lowered = text.lower()
    if lowered.isascii():
        words = _ASCII.findall(lowered.encode())
        return list(map(xxhash.xxh3_64_intdigest, words)), *_kinds(words)
    composed = unicodedata.normalize("NFC", lowered)
    texts = (_OTHER if _HAS_MARK.search(composed) is None else _MARKED).findall(composed)
    if _ALONE.search(composed) is None:
        words = [text.encode("utf-8", "surrogatepass") for text in texts]
        return list(map(xxhash.xxh3_64_intdigest, words)), *_kinds(words)
    pairs = [_character(text) if len(text) == 1 else _word(text) for text in texts]
    kinds = bytes(kind for _, kind in pairs)
    return [digest for digest, _ in pairs], kinds, kinds


def _kinds(words: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return the kinds of words of scripts with spaces, and of signs: a number has a digit first or last."""
    firsts, lasts = (bytes(map(itemgetter(index), words)) for index in (0, -1))
    return firsts.translate(_BY_FIRST), lasts.translate(_BY_LAST)


def _word(text: str) -> tuple[int, int]:
    word = text.encode("utf-8", "surrogatepass")
    return xxhash.xxh3_64_intdigest(word), max(_BY_FIRST[word[0]], _BY_LAST[word[-1]])


# There are no more than some ten thousand of them.
@cache
def _character(text: str) -> tuple[int, int]:
    digest, kind = _word(text)
    if _ALONE.match(text) is not None:
        kind = CHARACTER if _CHARACTER.match(text) is not None else SIGN
    return digest, kind


def text_hash(hashes: Hashes) -> int:
    """Hash all words of a text; 0 for none."""
    return xxhash.xxh3_64_intdigest(hashes.data) if len(hashes) else 0


def ngrams(hashes: Hashes, length: int) -> Hashes:
    """Hash all windows of `length` words: uint64 (n - length + 1,), empty where there are too few."""
    windows = len(hashes) - length + 1
    if windows < 1:
        return empty()
    # The hash of a window is a polynomial in its words, put together from those of windows of 1, 2, 4, ... words.
    result: Hashes | None = None
    block, size, done = hashes, 1, 0
    while True:
        if length & size:
            part = block[done : done + windows]
            result = part if result is None else result + part * _power(done)
            done += size
        if done == length:
            return result if result is not hashes else hashes.copy()  # type: ignore[return-value]
        block = block[: len(block) - size] + block[size:] * _power(size)
        size *= 2


def deletion_hashes(hashes: Hashes, lengths: NDArray[np.int64]) -> Hashes:
    """Hash texts without each of their words in turn, and as they are.

    Texts that are equal but for one word, which one of them may lack, have a hash in common.

    Args:
        hashes: of the words of each text, uint64 (n, most); 0 after its last one.
        lengths: number of words of each, int64 (n,).

    Returns:
        uint64 (n, most + 1): without the word of that column, which has no meaning after the last word; in the last
        column of the whole text.
    """
    powers = np.full(hashes.shape[1], MULTIPLIER, dtype=np.uint64)
    powers[:1] = 1
    terms = hashes * np.cumprod(powers)
    sums, total = np.cumsum(terms, axis=1), terms.sum(axis=1, keepdims=True)
    multiplier, counts = np.uint64(MULTIPLIER), lengths.astype(np.uint64)[:, None]
    without = sums - terms + (total - sums) * _power(-1) + (counts - np.uint64(1)) * multiplier
    return np.concatenate([without, total + counts * multiplier], axis=1)


def among(values: Hashes, known: Hashes) -> NDArray[np.bool_]:
    """Return a mask of the values that are in the sorted array `known`."""
    if not len(known):
        return np.zeros(len(values), dtype=bool)
    mask: NDArray[np.bool_] = known.take(known.searchsorted(values), mode="clip") == values
    return mask


class KnownHashes:
    """Hashes that are looked up often: most others are told apart by a look at a table that the caches hold."""

    def __init__(self, known: Hashes) -> None:
        """Prepare the look-up of sorted hashes."""
        self.known = known
        # Some 16 slots for each hash, so that about one in 16 others is looked up in vain.
        self._shift = np.uint64(64 - max(10, len(known).bit_length() + 3))
        self._table = np.zeros(1 << (64 - int(self._shift)), dtype=bool)
        self._table[self._slots(known)] = True

    def _slots(self, hashes: Hashes) -> NDArray[np.intp]:
        return (hashes >> self._shift).astype(np.intp)

    def among(self, values: Hashes) -> NDArray[np.intp]:
        """Return the indices of the values that are known."""
        likely = np.flatnonzero(self._table[self._slots(values)])
        return likely[among(values[likely], self.known)] if len(likely) else likely


def empty() -> Hashes:
    """Return no hashes."""
    return np.empty(0, dtype=np.uint64)


def _power(exponent: int) -> np.uint64:
    """Return a power of the multiplier, which is odd: of its inverse where the exponent is negative."""
    return np.uint64(pow(MULTIPLIER if exponent >= 0 else _INVERSE, abs(exponent), _MODULUS))
