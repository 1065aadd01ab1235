"""Prompts of targets in rows of the pool: the same, inside a longer one, or with a word changed."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import xxhash
from numpy.typing import NDArray

from instsel.data.words import (
    NUMBER,
    WORDS_PER_CHARACTER,
    Hashes,
    KnownHashes,
    Messages,
    Words,
    among,
    deletion_hashes,
    empty,
    ngrams,
    words_of,
)

# Fewer words are what anyone says in any conversation: "Yes", "Continue.", "Thank you!"
LEAST_WORDS = 3
# A prompt of so many words may be inside a longer one: as more than its half, or of more words anywhere.
LEAST_INSIDE, ANYWHERE_INSIDE = 5, 8
LEAST_EDITED = 6

IsFrequent = Callable[[int, int], bool]


@dataclass(frozen=True)
class Prompt:
    """The prompt of a target's row: all that the user says.

    Attributes:
        row: of the target.
        user: its user turns.
        hash: of their words.
        weight: number of their words.
        labels: hashes of answers that are labels in this target.
    """

    row: Words
    user: Words
    hash: int
    weight: float
    labels: frozenset[int]


def prompts_of(targets: Sequence[Sequence[Words]], is_frequent: IsFrequent) -> list[Prompt]:
    """Return the prompts of targets but those that several rows of a target share, which are its form.

    Args:
        targets: rows of each target.
        is_frequent: called with how many rows of a target have something and how many rows it has; returns whether
            that belongs to its form.
    """
    return [prompt for rows in targets for prompt in _prompts(rows, is_frequent)]


def _prompts(rows: Sequence[Words], is_frequent: IsFrequent) -> Iterator[Prompt]:
    users = [row.of_role("user") for row in rows]
    hashes = [user.span_hash(0, len(user.hashes)) for user in users]
    frequency = Counter(hashes)
    answers = Counter(answer for row in rows for answer in {answer for _, answer in _exchanges(row)})
    labels = frozenset(answer for answer, count in answers.items() if is_frequent(count, len(rows)))
    for row, user, text in zip(rows, users, hashes, strict=True):
        if text and not is_frequent(frequency[text], len(rows)):
            yield Prompt(row, user, text, user.weight(0, len(user.hashes)), labels)


@dataclass(frozen=True)
class PromptIndex:
    """What is known of the targets' prompts as they stand.

    Attributes:
        rows: sorted hashes of whole conversations.
        same: sorted hashes of prompts of at least 3 words.
        starts: sorted hashes of the first words of prompts that are looked for inside longer ones.
        inside: hash of each of these prompts.
        lengths: number of words of each of them, int64.
        edits: sorted hashes of short prompts, and of these without one of their words, each with its answer.
    """

    rows: Hashes = field(default_factory=empty)
    same: Hashes = field(default_factory=empty)
    starts: Hashes = field(default_factory=empty)
    inside: Hashes = field(default_factory=empty)
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    edits: Hashes = field(default_factory=empty)

    @classmethod
    def of(cls, targets: Sequence[Sequence[Words]], prompts: Sequence[Prompt], words: int) -> "PromptIndex":
        """Index prompts.

        Args:
            targets: rows of each target.
            prompts: those of these rows that are no form.
            words: number of words from which on a prompt is long, and known by its runs of words.
        """
        conversations = [conversation_hash(row) for rows in targets for row in rows]
        short = [prompt for prompt in prompts if prompt.weight < words and len(prompt.user.ends) == 1]
        # With signs left out, as n-grams are compared, prompts with signs would be taken for others.
        whole = [prompt for prompt in short if prompt.weight >= LEAST_INSIDE and not prompt.user.has_signs]
        first = [int(ngrams(prompt.user.hashes[:LEAST_INSIDE], LEAST_INSIDE)[0]) for prompt in whole]
        lengths = [len(prompt.user.hashes) for prompt in whole]
        inside = sorted(zip(first, (prompt.hash for prompt in whole), lengths, strict=True))
        edited = [prompt for prompt in short if prompt.weight >= LEAST_EDITED]
        indices, answers, edits, is_deleted = _edits([prompt.row for prompt in edited], words)
        is_label = [
            answer in edited[index].labels for index, answer in zip(indices.tolist(), answers.tolist(), strict=True)
        ]
        is_deleted[np.array(is_label, dtype=bool)] = False
        return cls(
            rows=np.unique(_hashes(each for each in conversations if each)),
            same=np.unique(_hashes(prompt.hash for prompt in prompts if prompt.weight >= LEAST_WORDS)),
            starts=_hashes(start for start, _, _ in inside),
            inside=_hashes(prompt for _, prompt, _ in inside),
            lengths=np.array([length for _, _, length in inside], dtype=np.int64),
            edits=np.unique(edits[is_deleted]),
        )

    def has_row(self, row: Words) -> bool:
        """Return whether a row says what a target's row does, whatever its length."""
        return conversation_hash(row) in self._rows

    def has(self, row: Words) -> bool:
        """Return whether a row has a prompt: one of its user turns, or its first ones together, are all of it."""
        asked = [text for role, text in zip(row.roles, row.turn_hashes, strict=True) if role == "user"]
        if len(asked) > 1:
            user = row.of_role("user")
            asked += [user.span_hash(0, end) for end in user.ends]
        return not self._same.isdisjoint(asked)

    def has_inside(self, row: Words) -> bool:
        """Return whether a user turn of a row without signs has a prompt in it, as more than its half or a long one."""
        user = row.of_role("user")
        windows = ngrams(user.hashes, LEAST_INSIDE)
        spans = list(user.spans)
        for position in np.flatnonzero(among(windows, self.starts)).tolist():
            start, end = spans[user.turns[position]]
            for length, prompts in self._inside[int(windows[position])].items():
                stop = position + length
                if stop <= end and user.span_hash(position, stop) in prompts:
                    weight = user.weight(position, stop)
                    if weight >= ANYWHERE_INSIDE or 2 * weight > user.weight(start, end):
                        return True
        return False

    def edited(self, rows: Sequence[Words], words: int) -> NDArray[np.bool_]:
        """Return which rows have a question of less than `words` words that is a target's but for one, and its answer.

        Returns:
            bool (n,).
        """
        edited = np.zeros(len(rows), dtype=bool)
        if len(self.edits):
            indices, _, hashes, is_deleted = _edits(rows, words)
            hits = self._known_edits.among(hashes[is_deleted])
            edited[indices[np.nonzero(is_deleted)[0][hits]]] = True
        return edited

    @cached_property
    def _inside(self) -> dict[int, dict[int, set[int]]]:
        """Hashes of the prompts that are looked for inside longer ones, by their first words and their length."""
        prompts: dict[int, dict[int, set[int]]] = {}
        for start, prompt, length in zip(
            self.starts.tolist(), self.inside.tolist(), self.lengths.tolist(), strict=True
        ):
            prompts.setdefault(start, {}).setdefault(length, set()).add(prompt)
        return prompts

    @cached_property
    def _known_edits(self) -> KnownHashes:
        return KnownHashes(self.edits)

    @cached_property
    def _rows(self) -> frozenset[int]:
        return frozenset(self.rows.tolist())

    @cached_property
    def _same(self) -> frozenset[int]:
        return frozenset(self.same.tolist())


def conversation_hash(row: Words) -> int:
    """Hash what a conversation says without its system turns; 0 for one without words."""
    spoken = [(role, text) for role, text in zip(row.roles, row.turn_hashes, strict=True) if role != "system"]
    return xxhash.xxh3_64_intdigest(str(spoken).encode()) if any(text for _, text in spoken) else 0


def row_keys(conversation: Messages) -> list[int]:
    """Return hashes by which two rows are one: of the whole conversation, and of a prompt that is no mere greeting."""
    row = words_of(conversation)
    user = row.of_role("user")
    is_prompt = user.weight(0, len(user.hashes)) >= LEAST_WORDS
    return [key for key in (conversation_hash(row), user.span_hash(0, len(user.hashes)) if is_prompt else 0) if key]


def shown_elsewhere(target: str) -> str:
    """Return why a held-out row of one target is rejected that is a validation row of another."""
    return f"also a validation row of target {target}"


def _exchanges(row: Words) -> Iterator[tuple[int, int]]:
    """Yield the index of each user turn that an assistant answers with words, and the hash of the answer."""
    for turn in range(len(row.roles) - 1):
        if row.roles[turn] == "user" and row.roles[turn + 1] == "assistant" and row.turn_hashes[turn + 1]:
            yield turn, row.turn_hashes[turn + 1]


def _edits(rows: Sequence[Words], words: int) -> tuple[NDArray[np.int64], Hashes, Hashes, NDArray[np.bool_]]:
    """Hash each question of less than `words` words with its answer, so that only near copies have a hash in common.

    Returns:
        The index of the row of each question, int64 (q,); the hash of its answer, uint64 (q,); hashes of the question
        with its answer without each of its words, and as it is, uint64 (q, most + 1); and which of these count, bool:
        numbers are not left out.
    """
    questions = [
        (index, start, end, answer) for index, row in enumerate(rows) for (start, end), answer in _questions(row, words)
    ]
    indices, starts, ends = (np.array([each[part] for each in questions], dtype=np.int64) for part in range(3))
    answers = _hashes(answer for *_, answer in questions)
    lengths = ends - starts
    columns = np.arange(lengths.max(initial=0))
    is_word = columns < lengths[:, None]
    hashes = np.zeros(is_word.shape, dtype=np.uint64)
    kinds = np.full(is_word.shape, NUMBER, dtype=np.uint8)
    if questions:
        hashes[is_word] = np.concatenate([rows[index].hashes[start:end] for index, start, end, _ in questions])
        kinds[is_word] = np.concatenate([rows[index].kinds[start:end] for index, start, end, _ in questions])
    is_deleted = np.concatenate([is_word & (kinds != NUMBER), np.ones((len(questions), 1), dtype=bool)], axis=1)
    return indices, answers, deletion_hashes(hashes, lengths) + answers[:, None], is_deleted


def _questions(row: Words, words: int) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield where each question of less than `words` words stands, and the hash of its answer."""
    # A near copy may have a word more.
    longest = round(words / WORDS_PER_CHARACTER) if row.has_characters else words
    spans = list(row.spans)
    for turn, answer in _exchanges(row):
        start, end = spans[turn]
        if LEAST_EDITED - 1 <= end - start <= longest:
            yield (start, end), answer


def _hashes(values: Iterable[int]) -> Hashes:
    return np.fromiter(values, dtype=np.uint64)
