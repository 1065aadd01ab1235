"""Rows of the pool whose prompt is nearly that of a target: a word changed, words added, another instruction around."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from instsel.data.leaked_prompts import LEAST_WORDS, Prompt
from instsel.data.words import Hashes, KnownHashes, Words, among, empty, ngrams, text_hash

# A near copy of a prompt shares so many 5-grams with it, or this share of as many as it has words.
TOUCH_WORDS, TOUCHES, TOUCHED = 5, 3, 0.25
SHINGLE_WORDS, LEAST_SHINGLES = 3, 8
# Shingles that it may lack: those of a changed word, or this share.
MISSING_SHINGLES = 0.25
# Words that may stand around a short content and its form, and the share of the form that has to be there.
MOST_AROUND, LEAST_FORM = 10, 0.5

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


def _integers() -> Integers:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class NearPromptIndex:
    """What is known of the targets' long prompts without template n-grams.

    Attributes:
        fives: sorted hashes of their 5-grams.
        holders: number of the prompt that has each 5-gram, int64.
        shingles: sorted hashes of the shingles of each prompt, prompt after prompt.
        ends: where the shingles of each prompt end, int64.
        sizes: number of words of each prompt, int64.
        contents: sorted hashes of the words of prompts that have too few for shingles.
        forms: sorted hashes of the words of each of these that belong to template n-grams, prompt after prompt.
        form_ends: where these words of each prompt end, int64.
    """

    fives: Hashes = field(default_factory=empty)
    holders: Integers = field(default_factory=_integers)
    shingles: Hashes = field(default_factory=empty)
    ends: Integers = field(default_factory=_integers)
    sizes: Integers = field(default_factory=_integers)
    contents: Hashes = field(default_factory=empty)
    forms: Hashes = field(default_factory=empty)
    form_ends: Integers = field(default_factory=_integers)

    @classmethod
    def of(cls, prompts: Sequence[Prompt], content_of: Callable[[Words], Mask], words: int) -> "NearPromptIndex":
        """Index the prompts of at least `words` words.

        Args:
            prompts: of targets.
            content_of: called with words; returns a mask of those that belong to no template n-gram.
            words: number of words from which on a prompt is long.
        """
        users = [prompt.user.without_signs() for prompt in prompts if prompt.weight >= words]
        masks = [content_of(user) for user in users]
        long = [user.hashes[mask] for user, mask in zip(users, masks, strict=True)]
        shingles = [np.unique(ngrams(content, SHINGLE_WORDS)) for content in long]
        kept = [number for number, each in enumerate(shingles) if len(each) >= LEAST_SHINGLES]
        fives = [np.unique(ngrams(long[number], TOUCH_WORDS)) for number in kept]
        order = np.argsort(np.concatenate([empty(), *fives]), kind="stable")
        short = sorted(
            (text_hash(content), np.unique(user.hashes[~mask]).tolist())
            for user, content, mask, each in zip(users, long, masks, shingles, strict=True)
            if len(each) < LEAST_SHINGLES and len(content) >= LEAST_WORDS
        )
        return cls(
            fives=np.concatenate([empty(), *fives])[order],
            holders=np.repeat(np.arange(len(kept)), [len(each) for each in fives])[order],
            shingles=np.concatenate([empty(), *(shingles[number] for number in kept)]),
            ends=np.cumsum([len(shingles[number]) for number in kept], dtype=np.int64),
            sizes=np.array([len(long[number]) for number in kept], dtype=np.int64),
            contents=np.array([content for content, _ in short], dtype=np.uint64),
            forms=np.array([word for _, form in short for word in form], dtype=np.uint64),
            form_ends=np.cumsum([len(form) for _, form in short], dtype=np.int64),
        )

    def has(self, words: Hashes, content: Mask) -> bool:
        """Return whether the user turns of a row are nearly the prompt of a target.

        Args:
            words: of the turns, without signs.
            content: mask of those that belong to no template n-gram.
        """
        return self._shares_shingles(words[content]) or self._has_content(words, content)

    def _shares_shingles(self, content: Hashes) -> bool:
        """Return whether a text has most shingles of a prompt."""
        windows = ngrams(content, TOUCH_WORDS)
        windows = windows[self.known_fives.among(windows)]
        if len(windows) < TOUCHES:
            return False
        first, last = (np.searchsorted(self.fives, windows, side=side) for side in ("left", "right"))
        counts = last - first
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        touches = np.bincount(self.holders[np.repeat(first, counts) + steps], minlength=len(self.sizes))
        # A part of a prompt is another one, which runs of words decide on.
        holders = np.flatnonzero((touches >= self._least_touches) & (self.sizes <= len(content) + 1)).tolist()
        if not holders:
            return False
        shingles = np.unique(ngrams(content, SHINGLE_WORDS))
        starts = np.concatenate([np.zeros(1, dtype=np.int64), self.ends])
        prompts = (self.shingles[starts[holder] : starts[holder + 1]] for holder in holders)
        return any(
            (~among(prompt, shingles)).sum() <= max(SHINGLE_WORDS, MISSING_SHINGLES * len(prompt)) for prompt in prompts
        )

    def _has_content(self, words: Hashes, content: Mask) -> bool:
        """Return whether a text has the content of a prompt in the prompt's form, with other words around both.

        Words between form and content are another content: only what stands before or after the form may be added.
        """
        indices = np.flatnonzero(content)
        if not len(self.contents) or len(indices) < LEAST_WORDS or len(indices) == len(words):
            return False
        texts = []
        for extra in range(min(MOST_AROUND, len(indices) - LEAST_WORDS) + 1):
            first, last = indices[extra], indices[len(indices) - 1 - extra]
            if not extra or not content[first - 1]:
                texts.append(text_hash(words[indices[extra:]]))
            if not extra or not content[last + 1]:
                texts.append(text_hash(words[indices[: len(indices) - extra]]))
        form = np.unique(words[~content])
        return any(self._has_form(form, prompt) for text in texts for prompt in self._prompts_of.get(text, ()))

    def _has_form(self, form: Hashes, prompt: int) -> bool:
        """Return whether words belong to the form of a prompt, and are most of it."""
        start = int(self.form_ends[prompt - 1]) if prompt else 0
        known = self.forms[start : int(self.form_ends[prompt])]
        return len(form) >= LEAST_FORM * len(known) and bool(among(form, known).all())

    @cached_property
    def _prompts_of(self) -> dict[int, list[int]]:
        prompts: dict[int, list[int]] = {}
        for number, content in enumerate(self.contents.tolist()):
            prompts.setdefault(content, []).append(number)
        return prompts

    @cached_property
    def _least_touches(self) -> NDArray[np.float64]:
        least: NDArray[np.float64] = np.maximum(TOUCHES, TOUCHED * self.sizes)
        return least

    @cached_property
    def known_fives(self) -> KnownHashes:
        """The 5-grams, to look up."""
        return KnownHashes(self.fives)
