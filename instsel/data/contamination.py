"""Contamination: rows of the pool that a model would be evaluated on.

A row leaks if it shares a long run of words with a target's row, has its prompt, or is nearly the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instsel.data.leaked_prompts import PromptIndex, prompts_of
from instsel.data.near_prompts import Mask, NearPromptIndex
from instsel.data.words import (
    CHARACTER,
    NUMBER,
    SIGN,
    WORDS_PER_CHARACTER,
    Hashes,
    KnownHashes,
    Messages,
    Words,
    among,
    empty,
    ngrams,
    words_of,
    words_of_all,
)

SHARED_RUN = "shares a run of words with a target"
SAME_PROMPT = "has the prompt of a target"
NEAR_COPY = "is nearly the same as a row of a target"
LEAKS = (SHARED_RUN, SAME_PROMPT, NEAR_COPY)
"""Why a row is rejected as a leak."""
TEMPLATE_WORDS = 5
TEMPLATE_ROWS = 3
TEMPLATE_FRACTION = 0.02


@dataclass(frozen=True)
class LeakIndex:
    """What is known of the targets' texts, hashed.

    Attributes:
        words: n, the number of words of an n-gram that counts as a leak.
        template: sorted hashes, uint64, of template n-grams: 5-grams that belong to the form of a target, not to its
            content.
        runs: sorted hashes, uint64, of the targets' n-grams without template n-grams.
        prompts: of the targets, as they stand.
        near_prompts: what near copies of the targets' long prompts are known by.
    """

    words: int
    template: Hashes
    runs: Hashes
    prompts: PromptIndex = field(default_factory=PromptIndex)
    near_prompts: NearPromptIndex = field(default_factory=NearPromptIndex)

    @classmethod
    def of(cls, targets: Sequence[Sequence[Messages]], words: int) -> "LeakIndex":
        """Index the conversations of each target.

        A 5-gram in at least 3 rows and 2 % of the rows of a target ("answer with one letter ...") is a template n-gram.
        Template n-grams are removed from both texts before n-grams are compared, so that a copied question is found by
        its content, and a question that only has the target's form is kept.
        """
        rows = [[words_of(conversation) for conversation in target] for target in targets]
        plain = [[row.without_signs() for row in target] for target in rows]
        template = np.unique(np.concatenate([empty(), *map(_template_ngrams, plain)]))
        known = KnownHashes(template)
        runs = [hashes for target in plain for row in target for hashes in _ngrams(row, _content(row, known), words)]
        prompts = prompts_of(rows, is_frequent)
        return cls(
            words,
            template,
            np.unique(np.concatenate([empty(), *runs])),
            PromptIndex.of(rows, prompts, words),
            NearPromptIndex.of(prompts, lambda row: _content(row, known), words),
        )

    @classmethod
    def from_arrays(cls, words: int, arrays: Mapping[str, NDArray[Any]]) -> "LeakIndex":
        """Return the index that has these arrays."""
        prompts = PromptIndex(**{each.name: arrays[f"prompt_{each.name}"] for each in fields(PromptIndex)})
        near = NearPromptIndex(**{each.name: arrays[f"near_prompt_{each.name}"] for each in fields(NearPromptIndex)})
        return cls(words, arrays["template"], arrays["runs"], prompts, near)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of the index by name."""
        prompts = {f"prompt_{each.name}": getattr(self.prompts, each.name) for each in fields(PromptIndex)}
        near = {f"near_prompt_{each.name}": getattr(self.near_prompts, each.name) for each in fields(NearPromptIndex)}
        return {"template": self.template, "runs": self.runs, **prompts, **near}

    def reason(self, conversation: Messages) -> str | None:
        """Return why a conversation is a leak; None for one that is not."""
        return self.reasons([conversation])[0]

    def reasons(self, conversations: Sequence[Messages]) -> list[str | None]:
        """Return why each of many conversations is a leak; None for one that is not."""
        if not len(self.runs) and not len(self.prompts.rows):
            return [None] * len(conversations)
        rows = words_of_all(conversations)
        edited = self.prompts.edited(rows, self.words)
        # Few rows have an n-gram of which anything is known, and the others need no closer look.
        near = self._have_known(rows)
        return [
            self._reason(row, is_edited)
            if is_near or is_edited or self.prompts.has_row(row) or self.prompts.has(row)
            else None
            for row, is_near, is_edited in zip(rows, near.tolist(), edited.tolist(), strict=True)
        ]

    def _have_known(self, rows: Sequence[Words]) -> Mask:
        """Return which rows have n-grams of which anything is known, or scripts without spaces; a few more at times."""
        row_of = np.repeat(np.arange(len(rows)), [len(row.hashes) for row in rows])
        kinds = np.concatenate([np.zeros(0, np.uint8), *(row.kinds for row in rows)])
        hashes = np.concatenate([empty(), *(row.hashes for row in rows)])
        have = np.zeros(len(rows), dtype=bool)
        have[row_of[kinds == CHARACTER]] = True
        is_plain = kinds != SIGN
        row_of, hashes = row_of[is_plain], hashes[is_plain]
        # N-grams that reach into the next row are looked up too: they are hardly ever known.
        for known, length in ((self._known_fives, TEMPLATE_WORDS), (self._known_runs, self.words)):
            have[row_of[known.among(ngrams(hashes, length))]] = True
        return have

    def _reason(self, row: Words, is_edited: bool) -> str | None:
        plain = row.without_signs()
        fives = ngrams(plain.hashes, TEMPLATE_WORDS)
        known = fives[self._known_fives.among(fives)]
        is_near = len(known) > 0 or (plain.has_characters and self._has_template(plain))
        content = _content(plain, self._templates) if is_near else np.ones(len(plain.hashes), dtype=bool)
        if self.prompts.has_row(row) or self._has_run(plain, content, is_near):
            return SHARED_RUN
        if self.prompts.has(row) or (among(known, self.prompts.starts).any() and self.prompts.has_inside(plain)):
            return SAME_PROMPT
        if is_near:
            asked = plain.mask("user")
            if self.near_prompts.has(plain.hashes[asked], content[asked]):
                return NEAR_COPY
        return NEAR_COPY if is_edited else None

    def leaks(self, conversation: Messages) -> bool:
        """Return whether a conversation is a leak."""
        return self.reason(conversation) is not None

    def _has_run(self, row: Words, content: Mask, is_near: bool) -> bool:
        if is_near or row.has_characters:
            return len(_matches(row, content, self.words, self._known_runs)) > 0
        hits = self._known_runs.among(ngrams(row.hashes, self.words))
        return len(hits) > 0 and len(_matches(row, content, self.words, self._known_runs)) > 0

    def _has_template(self, row: Words) -> bool:
        everything = np.ones(len(row.hashes), dtype=bool)
        return len(_matches(row, everything, TEMPLATE_WORDS, self._templates)) > 0

    @cached_property
    def _templates(self) -> KnownHashes:
        return KnownHashes(self.template)

    @cached_property
    def _known_runs(self) -> KnownHashes:
        return KnownHashes(self.runs)

    @cached_property
    def _known_fives(self) -> KnownHashes:
        return KnownHashes(np.unique(np.concatenate([self.template, self.prompts.starts, self.near_prompts.fives])))


def is_frequent(count: int, rows: int) -> bool:
    """Return whether what `count` of the rows of a target have is its form and not its content."""
    return count >= max(TEMPLATE_ROWS, TEMPLATE_FRACTION * rows)


def _template_ngrams(rows: Sequence[Words]) -> Hashes:
    per_row = [
        np.unique(np.concatenate([empty(), *_ngrams(row, np.ones(len(row.hashes), dtype=bool), TEMPLATE_WORDS)]))
        for row in rows
    ]
    hashes, frequency = np.unique(np.concatenate([empty(), *per_row]), return_counts=True)
    return hashes[[is_frequent(count, len(rows)) for count in frequency.tolist()]]


def _content(row: Words, templates: KnownHashes) -> Mask:
    """Return a mask of the words that belong to no template n-gram."""
    content = np.ones(len(row.hashes), dtype=bool)
    content[_matches(row, content, TEMPLATE_WORDS, templates)] = False
    return content


def _ngrams(row: Words, mask: Mask, words: int) -> Iterator[Hashes]:
    """Yield the hashes of the n-grams of the words under a mask, by script.

    An n-gram lies within a turn. Scripts without spaces between words are compared by characters, 30 of them in place
    of 13 words, and apart from other scripts.
    """
    for indices, length in _scripts(row, mask, words):
        windows = _windows(indices, np.arange(max(0, len(indices) - length + 1)), length)
        yield ngrams(row.hashes[indices], length)[_are_within_turn(row, windows)]


def _matches(row: Words, mask: Mask, words: int, known: KnownHashes) -> NDArray[np.int64]:
    """Return the indices of the words of n-grams that are known, int64; a word is there as often as in n-grams."""
    matches = [np.empty(0, dtype=np.int64)]
    for indices, length in _scripts(row, mask, words):
        hits = known.among(ngrams(row.hashes[indices], length))
        if len(hits):
            windows = _windows(indices, hits, length)
            matches.append(windows[_are_within_turn(row, windows)].ravel())
    return np.concatenate(matches)


def _scripts(row: Words, mask: Mask, words: int) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yield the indices of the words, and of the characters, under a mask, and the length of an n-gram of each."""
    yield np.flatnonzero((row.kinds <= NUMBER) & mask), words
    if row.has_characters:
        yield np.flatnonzero((row.kinds == CHARACTER) & mask), round(words / WORDS_PER_CHARACTER)


def _windows(indices: NDArray[np.int64], starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    windows: NDArray[np.int64] = indices[starts[:, None] + np.arange(length)]
    return windows


def _are_within_turn(row: Words, windows: NDArray[np.int64]) -> Mask:
    turns: NDArray[np.int64] = row.turns[windows[:, [0, -1]]]
    within: Mask = turns[:, 0] == turns[:, 1]
    return within
