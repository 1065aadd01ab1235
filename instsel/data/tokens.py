"""Tokenise many texts: pieces that occur again and again, such as words, are tokenised once."""

import json
import random
import re
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from typing import Any, Protocol

_Offsets = list[tuple[int, int]]
_ITEM = array("I").itemsize

# Pieces of a text, cut only where the usual pre-tokenizers cut it too: before a blank, and before other white space
# behind a letter or a digit; between digits and other characters; behind a letter where no letter, mark or apostrophe
# follows; behind a line break alone. Other white space goes with what follows it, since how it is split depends on
# that. `_is_exact` tests the cuts for each tokenizer.
_LETTERS = r"[A-Za-z]+(?![A-Za-z'\x80-\U0010ffff])"
_DIGITS = r"[0-9]+(?![0-9\x80-\U0010ffff])"
_SIGNS = r"[!-/:-@\[-`{-~]+(?![!-/:-@\[-`{-~])"
_BREAK = r"[^\S ]\s*"
_PIECE = re.compile(
    r"\n(?=\S)"
    rf"|\s*(?:{_LETTERS}|{_DIGITS})"
    rf"|\s*{_SIGNS}(?:{_BREAK}{_SIGNS})*"
    rf"(?:(?=[ 0-9]|\Z)|\n(?=[^\s/])|(?:{_BREAK})?{_LETTERS}|{_BREAK}{_DIGITS})"
    rf"|\s*\S+(?:{_BREAK}\S+)*(?:{_BREAK}\Z)?"
    r"|\s+"
)
_SEPARATOR = re.compile(r"<[^<>\s]+>")
_KINDS = {"ByteLevel", "Digits", "Split"}
_MOST_PIECES = 100_000
_LONGEST_PIECE = 32
_JOINED = 50
_TRIALS = 500
_MOST_LEARNT = 1_000
_OFTEN = 20
_SAMPLE = [
    *"abzABZ019 \n\t\r.,;:!?)('\"-_#=/<>\\{}",
    *("  ", "\n\n", "a ", " the", " The", "it's", "IT'LL", "12345", "...", ".\n", "\r\n", "é", "ß", "日本", "e\u0301"),
    *("\u0301", "😀", "👩\u200d👧", "\u00a0", "\u2028", "\x1c", "\x85", "’", "，", "д", "٣", "ไท"),
]


class TokenisedText(Protocol):
    """Token ids of a text, and which tokens reach into a range of its characters."""

    ids: list[int]

    def tokens_of(self, start: int, end: int, limit: int) -> tuple[int, int]:
        """Return the first token that reaches into characters `start` to `end`, and the one after the last.

        A last one that reaches over `limit` is not among them.
        """


class _Whole:
    """A text that was tokenised in one piece."""

    def __init__(self, ids: list[int], offsets: _Offsets) -> None:
        self.ids, self._offsets = ids, offsets

    def tokens_of(self, start: int, end: int, limit: int) -> tuple[int, int]:
        first, last = _tokens_between(self._offsets, start, end)
        return first, last - (last > first and self._offsets[last - 1][1] > limit)


@dataclass(slots=True)
class _Cut:
    """A text in pieces, and where its parts between tokens of the tokenizer's own start: characters, and pieces."""

    pieces: list[str]
    starts: list[int]
    indices: list[int]


class _Pieced:
    """A text that was tokenised piece by piece."""

    def __init__(self, cut: _Cut, ids: list[bytes], offsets_of: Callable[[str], _Offsets]) -> None:
        self.ids = array("I", b"".join(ids)).tolist()
        self._cut, self._offsets_of = cut, offsets_of
        self._byte_starts = list(accumulate(map(len, ids), initial=0))
        # Of the last piece that was looked for: answers are looked for one after the other.
        self._last = (0, 0)

    def tokens_of(self, start: int, end: int, limit: int) -> tuple[int, int]:
        index, at = self._piece_at(start)
        first = self._byte_starts[index] // _ITEM
        if at < start:
            piece = self._cut.pieces[index]
            first += _tokens_between(self._offsets_of(piece), start - at, len(piece))[0]
        index, at = self._piece_at(end)
        last = self._byte_starts[index] // _ITEM
        if at < end:
            offsets = self._offsets_of(self._cut.pieces[index])
            inner = _tokens_between(offsets, 0, end - at)[1]
            last += inner - (inner > 0 and offsets[inner - 1][1] > limit - at)
        return first, max(first, last)

    def _piece_at(self, position: int) -> tuple[int, int]:
        """Return the piece that holds a character, or starts with it, and where it starts."""
        part = bisect_right(self._cut.starts, position) - 1
        index, at = self._cut.indices[part], self._cut.starts[part]
        if at < self._last[1] <= position:
            index, at = self._last
        pieces = self._cut.pieces
        while index < len(pieces) and at + len(pieces[index]) <= position:
            at += len(pieces[index])
            index += 1
        self._last = index, at
        return index, at


class Tokenizer:
    """Tokenises as a Hugging Face tokenizer does, by pieces where that is certain to give the same tokens.

    A fast tokenizer spends most of its time on splitting texts into words and on keeping track of where they stand.
    Words occur again and again, so a text is cut, and what a piece becomes is remembered.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._backend = tokenizer, tokenizer.backend_tokenizer
        added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
        longest_first = sorted(added, key=len, reverse=True)
        self._added = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if added else None
        self._separator = next(((text, added[text]) for text in added if _SEPARATOR.fullmatch(text)), None)
        # Tokens of the tokenizer's own are pieces that are known.
        self._known = {text: array("I", [number]).tobytes() for text, number in added.items()}
        # Those of late, and those before them: of words that still occur none is forgotten.
        self._ids: dict[str, bytes] = dict(self._known)
        self._earlier: dict[str, bytes] = {}
        self._offsets: dict[str, _Offsets] = {}
        self._seen: Counter[str] = Counter()
        self._texts = 0
        self._by_pieces = _may_cut(tokenizer) and self._is_exact()

    def encode(self, texts: Sequence[str]) -> Sequence[TokenisedText]:
        """Tokenise texts, as they are: no special tokens are added."""
        if not texts:
            return []
        return self._pieced(texts) if self._by_pieces else self._whole(texts)

    def _whole(self, texts: Sequence[str]) -> list[_Whole]:
        batch = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        return [_Whole(ids, offsets) for ids, offsets in zip(batch["input_ids"], batch["offset_mapping"], strict=True)]

    def _pieced(self, texts: Sequence[str]) -> list[_Pieced]:
        if self._texts < _MOST_LEARNT and self._added is not None:
            self._learn(texts)
        cuts = list(map(self._cut, texts))
        pieces = list(chain.from_iterable(cut.pieces for cut in cuts))
        ids: list[Any] = list(map(self._ids.get, pieces))
        missing = [index for index, piece_ids in enumerate(ids) if piece_ids is None]
        known = self._look_up({pieces[index] for index in missing})
        for index in missing:
            ids[index] = known[pieces[index]]
        ends = list(accumulate((len(cut.pieces) for cut in cuts), initial=0))
        return [
            _Pieced(cut, ids[start:end], self._piece_offsets)
            for cut, (start, end) in zip(cuts, pairwise(ends), strict=True)
        ]

    def _learn(self, texts: Sequence[str]) -> None:
        """Remember what stands in many texts between two tokens of the tokenizer's own, such as a system turn."""
        assert self._added is not None
        self._texts += len(texts)
        self._seen.update(part for text in texts for part in self._added.split(text)[::2])
        if self._texts >= _MOST_LEARNT:
            often = [part for part, count in self._seen.items() if part and count * _OFTEN >= self._texts]
            self._known.update(zip(often, self._encode_pieces(often), strict=True))
            self._ids.update(self._known)
            self._seen.clear()

    def _look_up(self, pieces: Collection[str]) -> dict[str, bytes]:
        """Return the tokens of pieces that are not among those of late, and remember them."""
        known = {piece: self._earlier[piece] for piece in pieces if piece in self._earlier}
        new = [piece for piece in pieces if piece not in known]
        known.update(zip(new, self._encode_pieces(new), strict=True))
        if len(self._ids) > _MOST_PIECES:
            self._ids, self._earlier, self._offsets = dict(self._known), self._ids, {}
        # Long pieces hardly occur again.
        self._ids.update((piece, ids) for piece, ids in known.items() if len(piece) <= _LONGEST_PIECE)
        return known

    def _cut(self, text: str) -> _Cut:
        """Cut a text into pieces: tokens of the tokenizer's own, what was learnt to stand between two, and words."""
        if self._added is None:
            return _Cut(_PIECE.findall(text), [0], [0])
        pieces: list[str] = []
        starts, indices, position = [], [], 0
        for index, part in enumerate(self._added.split(text)):
            starts.append(position)
            indices.append(len(pieces))
            position += len(part)
            if index % 2 or part in self._ids:
                pieces.append(part)
            else:
                pieces += _PIECE.findall(part)
        return _Cut(pieces, starts, indices)

    def _encode_pieces(self, pieces: Sequence[str]) -> Iterator[bytes]:
        """Tokenise pieces, many in a text: a token of the tokenizer's own stands between two."""
        self._backend.no_truncation()
        self._backend.no_padding()
        if self._separator is None:
            for encoding in self._backend.encode_batch_fast(list(pieces), add_special_tokens=False):
                yield array("I", encoding.ids).tobytes()
            return
        text, number = self._separator
        joined = [text.join(pieces[start : start + _JOINED]) for start in range(0, len(pieces), _JOINED)]
        for encoding in self._backend.encode_batch_fast(joined, add_special_tokens=False):
            ids, start = encoding.ids, 0
            for _ in range(ids.count(number)):
                end = ids.index(number, start)
                yield array("I", ids[start:end]).tobytes()
                start = end + 1
            yield array("I", ids[start:]).tobytes()

    def _piece_offsets(self, piece: str) -> _Offsets:
        offsets = self._offsets.get(piece)
        if offsets is None:
            offsets = self._offsets[piece] = self._backend.encode(piece, add_special_tokens=False).offsets
        return offsets

    def _is_exact(self) -> bool:
        """Return whether random texts of all kinds of characters are split into the same words in pieces and whole."""
        draw = random.Random(0)
        texts = ["".join(draw.choices(_SAMPLE, k=24)) for _ in range(_TRIALS)]
        return all(
            self._words(text) == [word for piece in _PIECE.findall(text) for word in self._words(piece)]
            for text in texts
        )

    def _words(self, text: str) -> list[str]:
        normalizer, pre_tokenizer = self._backend.normalizer, self._backend.pre_tokenizer
        normal = normalizer.normalize_str(text) if normalizer is not None else text
        return [word for word, _ in pre_tokenizer.pre_tokenize_str(normal)]


@lru_cache(maxsize=4)
def tokenizer_of(tokenizer: Any) -> Tokenizer:
    """Return the `Tokenizer` of a fast Hugging Face tokenizer."""
    return Tokenizer(tokenizer)


def _may_cut(tokenizer: Any) -> bool:
    """Return whether a tokenizer splits texts by patterns that look no further than a character ahead."""
    backend = tokenizer.backend_tokenizer
    kinds = _kinds(backend.pre_tokenizer)
    if not kinds or not kinds <= _KINDS or not _kinds(backend.normalizer) <= {"NFC"}:
        return False
    if getattr(backend.model, "dropout", None):
        return False
    # Some tokens take white space around them, or are looked for only when the text is normalised.
    return not any(
        token.single_word or token.lstrip or token.rstrip or token.normalized
        for token in tokenizer.added_tokens_decoder.values()
    )


def _kinds(part: Any) -> set[str]:
    """Return the types of a pre-tokenizer or normalizer, those in a sequence one by one."""
    if part is None:
        return set()
    state = json.loads(part.__getstate__())
    members = state.get("pretokenizers") or state.get("normalizers") or [state]
    return {"a blank in front" if member.get("add_prefix_space") else member["type"] for member in members}


def _tokens_between(offsets: _Offsets, start: int, end: int) -> tuple[int, int]:
    """Return the range of tokens that reach into characters `start` to `end`.

    Some tokenizers give tokens of white space no width: those count at the end of what they stand for.
    """
    first = bisect_right(offsets, start, key=lambda offset: offset[1])
    last = bisect_left(offsets, end, key=lambda offset: offset[0])
    while last < len(offsets) and offsets[last] == (end, end):
        last += 1
    return first, max(first, last)
