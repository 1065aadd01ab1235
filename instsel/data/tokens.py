"""Tokenise many texts: pieces that occur again and again, such as words, are tokenised once."""

import json
import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, chain
from typing import Any, Protocol

# Between two of these, no pre-tokenizer of `_SAFE` makes a token; `_is_exact` tests that of each tokenizer.
_CUT = re.compile(r"(?<=[A-Za-z0-9.,;:!?)])(?= [A-Za-z])|(?<=[A-Za-z])(?=[.,;:!?)])|(?<=\S\n)(?=[A-Za-z])")
_EDGE = re.compile(r"[A-Za-z0-9.,;:!?)\s]")
_SAFE = {"ByteLevel", "Digits", "Split"}
_MOST_PIECES = 200_000
_LONGEST_PIECE = 32
_TRIALS = 300
_SAMPLE = [
    *"abzABZ019 \n\t.,;:!?)('\"-_#=/<>",
    " ",
    " ",
    "\n",
    "a ",
    " the",
    " The",
    "it's",
    "é",
    "ß",
    "日",
    "\u0301",
    "😀",
    "\u00a0",
    "\r\n",
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

    def __init__(self, ids: list[int], offsets: list[tuple[int, int]]) -> None:
        self.ids, self._offsets = ids, offsets

    def tokens_of(self, start: int, end: int, limit: int) -> tuple[int, int]:
        first, last = _tokens_between(self._offsets, start, end)
        return first, last - (last > first and self._offsets[last - 1][1] > limit)


class _Pieced:
    """A text that was tokenised piece by piece."""

    def __init__(self, pieces: list[str], ids: list[tuple[int, ...]], offsets_of: Any) -> None:
        self.ids = list(chain.from_iterable(ids))
        self._pieces, self._piece_ids, self._offsets_of = pieces, ids, offsets_of
        self._ends: list[int] = []
        self._token_ends: list[int] = []

    def tokens_of(self, start: int, end: int, limit: int) -> tuple[int, int]:
        if not self._ends:
            self._ends = list(accumulate(map(len, self._pieces)))
            self._token_ends = list(accumulate(map(len, self._piece_ids)))
        index = bisect_right(self._ends, start)
        if index == len(self._pieces):
            return len(self.ids), len(self.ids)
        before, inside = self._token_ends[index] - len(self._piece_ids[index]), self._inside(index, start)
        first = before if inside == 0 else before + _tokens_between(self._offsets(index), inside, self._ends[index])[0]
        index = bisect_left(self._ends, end)
        if self._ends[index] == end:
            return first, max(first, self._token_ends[index])
        offsets = self._offsets(index)
        last = _tokens_between(offsets, 0, self._inside(index, end))[1]
        if last and offsets[last - 1][1] > self._inside(index, limit):
            last -= 1
        return first, max(first, self._token_ends[index] - len(offsets) + last)

    def _inside(self, index: int, position: int) -> int:
        """Return a position in the text as one in a piece."""
        return position - self._ends[index] + len(self._pieces[index])

    def _offsets(self, index: int) -> list[tuple[int, int]]:
        return self._offsets_of(self._pieces[index])


class Tokenizer:
    """Tokenises as a Hugging Face tokenizer does, by pieces where that is certain to give the same tokens.

    Most of the time of a fast tokenizer goes into splitting texts into words. Words with the blank before them occur
    again and again, so a text is cut where every pre-tokenizer of the usual kinds cuts it too, and what a piece
    becomes is remembered.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[str, tuple[int, ...]] = {}
        self._offsets: dict[str, list[tuple[int, int]]] = {}
        self._by_pieces = _may_cut(tokenizer) and self._is_exact()

    def encode(self, texts: Sequence[str]) -> list[TokenisedText]:
        """Tokenise texts, as they are: no special tokens are added."""
        if not self._by_pieces:
            return self._whole(texts)
        return self._pieced(texts)

    def _whole(self, texts: Sequence[str]) -> list[TokenisedText]:
        if not texts:
            return []
        batch = self._call(texts, return_offsets_mapping=True)
        return [_Whole(ids, offsets) for ids, offsets in zip(batch["input_ids"], batch["offset_mapping"], strict=True)]

    def _pieced(self, texts: Sequence[str]) -> list[TokenisedText]:
        cut = [_CUT.split(text) for text in texts]
        known = self._pieces
        new = list({piece: None for pieces in cut for piece in pieces if piece not in known})
        if len(known) + len(new) > _MOST_PIECES:
            # What this call needs stays whole: its pieces are looked up below.
            known.clear()
            new = list({piece: None for pieces in cut for piece in pieces})
        if new:
            known.update(zip(new, map(tuple, self._call(new)["input_ids"]), strict=True))
        tokenised: list[TokenisedText] = [
            _Pieced(pieces, list(map(known.__getitem__, pieces)), self._piece_offsets) for pieces in cut
        ]
        for piece in new:
            if len(piece) > _LONGEST_PIECE:
                del known[piece]
        return tokenised

    def _piece_offsets(self, piece: str) -> list[tuple[int, int]]:
        offsets = self._offsets.get(piece)
        if offsets is None:
            offsets = self._call([piece], return_offsets_mapping=True)["offset_mapping"][0]
            if len(piece) <= _LONGEST_PIECE and len(self._offsets) < _MOST_PIECES:
                self._offsets[piece] = offsets
        return offsets

    def _call(self, texts: Sequence[str], **options: Any) -> Any:
        return self._tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False, **options
        )

    def _is_exact(self) -> bool:
        """Return whether random texts of all kinds of characters become the same tokens in pieces and whole."""
        random_texts = random.Random(0)
        texts = ["".join(random_texts.choices(_SAMPLE, k=24)) for _ in range(_TRIALS)]
        pieced, whole = self._pieced(texts), self._whole(texts)
        return all(left.ids == right.ids for left, right in zip(pieced, whole, strict=True))


@lru_cache(maxsize=4)
def tokenizer_of(tokenizer: Any) -> Tokenizer:
    """Return the `Tokenizer` of a fast Hugging Face tokenizer."""
    return Tokenizer(tokenizer)


def _may_cut(tokenizer: Any) -> bool:
    """Return whether a tokenizer splits texts by patterns that look no further than a character ahead."""
    backend = tokenizer.backend_tokenizer
    kinds = _kinds(backend.pre_tokenizer)
    if not kinds or not kinds <= _SAFE or not _kinds(backend.normalizer) <= {"NFC"}:
        return False
    if getattr(backend.model, "dropout", None):
        return False
    # A token of its own that holds, or may reach over, a cut would be lost.
    return not any(
        token.single_word
        or _EDGE.match(token.content[0])
        or _EDGE.match(token.content[-1])
        or _CUT.search(token.content)
        for token in tokenizer.added_tokens_decoder.values()
    )


def _kinds(part: Any) -> set[str]:
    """Return the types of a pre-tokenizer or normalizer, those in a sequence one by one."""
    if part is None:
        return set()
    state = json.loads(part.__getstate__())
    members = state.get("pretokenizers") or state.get("normalizers") or [state]
    return {"a blank in front" if member.get("add_prefix_space") else member["type"] for member in members}


def _tokens_between(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Return the range of tokens that reach into characters `start` to `end`.

    Some tokenizers give tokens of white space no width: those count at the end of what they stand for.
    """
    first = bisect_right(offsets, start, key=lambda offset: offset[1])
    last = bisect_left(offsets, end, key=lambda offset: offset[0])
    while last < len(offsets) and offsets[last] == (end, end):
        last += 1
    return first, max(first, last)
