"""Two rows of the pool, word by word: whether one is nearly a copy of the other.

A near-copy differs in a word here and there, or in words before or after a prompt. Rows that share a long passage or
instruction and have another question, input or answer are not copies, however much of their text is the same. Nor are
rows with other tools or calls, or of which other turns are trained on.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise

import numpy as np
import xxhash
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq

from instsel.data.words import (
    CHARACTER,
    NUMBER,
    SIGN,
    WORDS_PER_CHARACTER,
    Hashes,
    KnownHashes,
    Messages,
    ngrams,
    words_of,
)

SHINGLE_WORDS = 3
TEMPLATE_WORDS = 5
MARK = 4
"""Kind of what stands before each turn and at the end of a row."""

# Words that stay between two changes; where they are fewer, it is one change.
ANCHOR_WORDS = 3
# Words that stand in place of others, and in place of a single one, such as an address.
MOST_REPLACED, MOST_FOR_SINGLE = 3, 6
# Rows of fewer words, and rows with less content, are other rows when a word is replaced.
LEAST_WORDS, LEAST_CONTENT, LEAST_BESIDE_FORM = 25, 12, 4
WORDS_PER_CHANGE = 30
LEAST_WITH_NUMBER = 40
MOST_OF_ANSWER = 1 / 3
MOST_ADDED = 0.1
# Bits that an alignment takes; rows of more than some 30,000 words that differ all over are not aligned.
MOST_CELLS = 1 << 30


@dataclass(frozen=True)
class RowWords:
    """Words of a row with a mark before each turn and two at the end.

    Attributes:
        hashes: of words and marks, uint64 (n,); that of a word depends on who says it.
        kinds: as in `Words`, MARK for marks, uint8 (n,).
        is_form: mask of the words that belong to template n-grams, bool (n,).
        beside: hash of what the row has that is no word of a turn, see `messages.beside_words`; 0 for nothing.
    """

    hashes: Hashes
    kinds: NDArray[np.uint8]
    is_form: NDArray[np.bool_]
    beside: int = 0

    @cached_property
    def shingles(self) -> Hashes:
        """Distinct shingles, sorted: sequences of three words, marks included."""
        return np.unique(ngrams(self.hashes, SHINGLE_WORDS))

    @property
    def content_shingles(self) -> Hashes:
        """Distinct shingles of what is left without template n-grams, sorted; none where nothing is left."""
        left = ~self.is_form
        is_word = np.lib.stride_tricks.sliding_window_view(self.kinds[left] != MARK, SHINGLE_WORDS)
        return np.unique(ngrams(self.hashes[left], SHINGLE_WORDS)[is_word.any(axis=1)])

    @property
    def form_key(self) -> int:
        """Hash of the words of template n-grams, where a row is little else and has a long answer of them; else 0."""
        # So are rows that are copied ten times and more, each with another word or prefix.
        is_word = self.kinds != MARK
        form = _weight(self.kinds[self.is_form])
        if form < LEAST_WORDS or self.content >= LEAST_CONTENT or not self.form_answer_words:
            return 0
        return xxhash.xxh3_64_intdigest(self.hashes[self.is_form | ~is_word].data)

    @cached_property
    def form_answer_words(self) -> float:
        """How many words the answers have, if all of them belong to template n-grams, and if they are many; else 0."""
        mask = self.answer_mask
        words = _weight(self.kinds[mask])
        return words if words >= LEAST_CONTENT and bool(self.is_form[mask].all()) else 0

    @cached_property
    def answer_mask(self) -> NDArray[np.bool_]:
        """Mask of the words that the assistant says."""
        marks = self._marks
        lengths = np.diff(np.append(marks, len(self.kinds)))
        mask: NDArray[np.bool_] = np.repeat(self.hashes[marks] == _mark_hash("assistant"), lengths)
        mask[marks] = False
        return mask

    @cached_property
    def words(self) -> float:
        """How many words the row has; 30 characters of scripts without spaces count as 13."""
        return self.weight(0, len(self.kinds))

    @cached_property
    def content(self) -> float:
        """How many words are left without template n-grams."""
        return _weight(self.kinds[~self.is_form])

    def weight(self, start: int, end: int, *, signs: bool = True) -> float:
        """Return how many words a span has, with its signs or without."""
        kinds = self.kinds[start:end]
        return _weight(kinds if signs else kinds[kinds != SIGN])

    def count(self, kind: int, start: int, end: int) -> int:
        """Count what is of a kind in a span."""
        return int((self.kinds[start:end] == kind).sum())

    def turn(self, position: int) -> tuple[int, int]:
        """Return where a turn's words start and end, by the position of one of them or of what follows them."""
        number = int(np.searchsorted(self._marks, position))
        return int(self._marks[number - 1]) + 1, int(self._marks[number])

    def is_answer(self, position: int) -> bool:
        """Return whether what stands at a position, or before it, is said by the assistant."""
        return int(self.hashes[self.turn(position)[0] - 1]) == _mark_hash("assistant")

    def said_words(self, start: int, end: int) -> float:
        """Return how many words of a span are not those of a system turn."""
        system = self._marks[self.hashes[self._marks] == _mark_hash("system")]
        turns = [self.turn(int(mark) + 1) for mark in system]
        return self.weight(start, end) - sum(self.weight(max(a, start), max(a, start, min(b, end))) for a, b in turns)

    @cached_property
    def _marks(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.kinds == MARK)


def row_words(conversation: Messages, templates: KnownHashes | None = None, beside: int = 0) -> RowWords:
    """Return the words of a row.

    Args:
        conversation: its turns.
        templates: hashes of template n-grams; none are known without.
        beside: see `messages.beside_words`.
    """
    split = words_of(conversation)
    roles = np.array([_mark_hash(role) for role in split.roles], dtype=np.uint64)
    positions = np.arange(len(split.hashes)) + split.turns + 1
    marks = np.append(
        np.array([start for start, _ in split.spans], dtype=np.int64) + np.arange(len(roles)),
        [len(positions) + len(roles), len(positions) + len(roles) + 1],
    )
    hashes, kinds = (
        np.zeros(len(positions) + len(marks), dtype=np.uint64),
        np.full(len(positions) + len(marks), MARK, np.uint8),
    )
    hashes[positions], kinds[positions] = split.hashes ^ roles[split.turns], split.kinds
    hashes[marks] = np.append(roles, np.full(2, _mark_hash("end"), dtype=np.uint64))
    is_form = np.zeros(len(hashes), dtype=bool)
    if templates is not None:
        starts = templates.among(ngrams(hashes, TEMPLATE_WORDS))
        is_form[(starts[:, None] + np.arange(TEMPLATE_WORDS)).ravel()] = True
        is_form[marks] = False
    return RowWords(hashes, kinds, is_form, beside)


def near_copy(first: RowWords, second: RowWords, threshold: float) -> float | None:
    """Compare two rows.

    Returns:
        The Jaccard similarity of their shingles if one is nearly a copy of the other, else None.
    """
    if first.beside != second.beside:
        return None
    similarity = jaccard(first, second)
    if similarity < threshold:
        return None
    changes = _changes(first, second)
    return similarity if changes is not None and _Comparison(first, second).are_copies(changes) else None


def jaccard(first: RowWords, second: RowWords) -> float:
    """Return how many of the shingles of two rows both have."""
    shared = len(np.intersect1d(first.shingles, second.shingles, assume_unique=True))
    return shared / max(1, len(first.shingles) + len(second.shingles) - shared)


@dataclass(frozen=True)
class _Change:
    """Words `start` to `end` of the first row that stand where words `other_start` to `other_end` of the second do."""

    start: int
    end: int
    other_start: int
    other_end: int


def _changes(first: RowWords, second: RowWords) -> list[_Change] | None:
    """Align two rows; None where that would take too much memory."""
    words, others = first.hashes, second.hashes
    shorter = min(len(words), len(others))
    before = _equal_at_start(words[:shorter], others[:shorter])
    after = _equal_at_start(words[::-1][: shorter - before], others[::-1][: shorter - before])
    if (len(words) - before - after) * (len(others) - before - after) > MOST_CELLS:
        return None
    end, other_end = len(words) - after, len(others) - after
    equal = [(0, 0, before)]
    for code in LCSseq.opcodes(words[before:end].tolist(), others[before:other_end].tolist()):
        if code.tag == "equal" and code.src_end - code.src_start >= ANCHOR_WORDS:
            equal.append((before + code.src_start, before + code.dest_start, code.src_end - code.src_start))
    equal.append((end, other_end, after))
    changes = [
        _moved_to_start(
            first, second, _trimmed(words, others, _Change(start + length, after, other + length, next_other))
        )
        for (start, other, length), (after, next_other, _) in pairwise(equal)
    ]
    return [change for change in changes if change.end > change.start or change.other_end > change.other_start]


def _moved_to_start(first: RowWords, second: RowWords, change: _Change) -> _Change:
    """Move words that only one row has to the start of their turn, if they may as well stand there.

    "You are an expert. You are asked" has the words "You are an expert" more than "You are asked" does, or as well "an
    expert. You are".
    """
    if change.start < change.end and change.other_start < change.other_end:
        return change
    row, start, end = (
        (first, change.start, change.end)
        if change.start < change.end
        else (second, change.other_start, change.other_end)
    )
    steps = 0
    while row.kinds[start - steps - 1] != MARK and row.hashes[start - steps - 1] == row.hashes[end - steps - 1]:
        steps += 1
    return _Change(change.start - steps, change.end - steps, change.other_start - steps, change.other_end - steps)


def _trimmed(words: Hashes, others: Hashes, change: _Change) -> _Change:
    """Leave out of a change what is the same at its start and its end."""
    part, other = words[change.start : change.end], others[change.other_start : change.other_end]
    shorter = min(len(part), len(other))
    before = _equal_at_start(part[:shorter], other[:shorter])
    after = _equal_at_start(part[::-1][: shorter - before], other[::-1][: shorter - before])
    return _Change(change.start + before, change.end - after, change.other_start + before, change.other_end - after)


def _equal_at_start(words: Hashes, others: Hashes) -> int:
    different = words != others
    return int(different.argmax()) if different.any() else len(words)


class _Comparison:
    """Adds up the changes between two rows."""

    def __init__(self, first: RowWords, second: RowWords) -> None:
        self.first, self.second = first, second
        # A long answer that both have is content, however many rows have it.
        self.content = min(first.content, second.content)
        if first.form_answer_words and second.form_answer_words and _equal_answers(first, second):
            self.content += first.form_answer_words
        self.is_short = min(first.words, second.words) < LEAST_WORDS
        self.replaced, self.numbers, self.turns = 0, 0, 0.0
        self.longest_added = [0.0, 0.0]

    def are_copies(self, changes: list[_Change]) -> bool:
        """Return whether the rows are still nearly the same with all changes."""
        if not all(self._may_be(change) for change in changes):
            return False
        return (
            self.replaced <= max(1, self.content // WORDS_PER_CHANGE)
            and (self.numbers == 0 or (self.numbers == 1 and self.content >= LEAST_WITH_NUMBER))
            and self.turns <= MOST_ADDED * self.content
            # Something long that is in one row only, and something else in the other: another question, or input.
            and min(self.longest_added) <= MOST_REPLACED
        )

    def _may_be(self, change: _Change) -> bool:
        """Return whether a copy may have a change; count it."""
        spans = [(self.first, change.start, change.end), (self.second, change.other_start, change.other_end)]
        lengths = [row.weight(start, end, signs=False) for row, start, end in spans]
        is_replaced = all(end > start for _, start, end in spans)
        if any(row.count(MARK, start, end) for row, start, end in spans):
            self.turns += sum(row.said_words(start, end) for row, start, end in spans)
            return not is_replaced
        return self._may_replace(spans, lengths) if is_replaced else self._may_add(spans, lengths)

    def _may_replace(self, spans: list["_Span"], lengths: list[float]) -> bool:
        is_leading = all(row.kinds[start - 1] == MARK for row, start, _ in spans)
        if is_leading and all(row.kinds[end] == MARK for row, _, end in spans):
            return False
        if any(row.is_answer(start) and _share_of_turn(row, start, end) > MOST_OF_ANSWER for row, start, end in spans):
            return False
        if all(row.count(SIGN, start, end) for row, start, end in spans):
            return False
        shorter, longer = sorted(lengths)
        # What is added before a prompt whose first words are replaced looks like one long change.
        if shorter > MOST_REPLACED or (
            not is_leading and longer > (MOST_FOR_SINGLE if shorter <= 1 else MOST_REPLACED)
        ):
            return False
        if is_leading:
            self._count_added(lengths)
        self.numbers += min(row.count(NUMBER, start, end) + row.count(SIGN, start, end) for row, start, end in spans)
        self.replaced += 1
        is_form = any(row.is_form[start:end].all() for row, start, end in spans)
        return not self.is_short and self.content >= (LEAST_BESIDE_FORM if is_form else LEAST_CONTENT)

    def _may_add(self, spans: list["_Span"], lengths: list[float]) -> bool:
        row, start, end = next(span for span in spans if span[2] > span[1])
        is_answer = row.is_answer(start)
        if is_answer and _share_of_turn(row, start, end) > MOST_OF_ANSWER:
            return False
        self._count_added(lengths)
        numbers = row.count(NUMBER, start, end) + row.count(SIGN, start, end)
        is_edge = MARK in (row.kinds[start - 1], row.kinds[end])
        if self.is_short or self.content < LEAST_CONTENT:
            return bool(row.is_form[start:end].all()) or (is_edge and not is_answer and not numbers)
        self.numbers += 0 if is_edge else numbers
        return is_edge or max(lengths) <= max(MOST_REPLACED, MOST_ADDED * self.content)

    def _count_added(self, lengths: list[float]) -> None:
        self.longest_added = [max(pair) for pair in zip(self.longest_added, lengths, strict=True)]


_Span = tuple[RowWords, int, int]


def _equal_answers(first: RowWords, second: RowWords) -> bool:
    return np.array_equal(first.hashes[first.answer_mask], second.hashes[second.answer_mask])


def _share_of_turn(row: RowWords, start: int, end: int) -> float:
    """Return which share of its turn a span is."""
    return row.weight(start, end) / row.weight(*row.turn(start))


def _weight(kinds: NDArray[np.uint8]) -> float:
    counts = np.bincount(kinds, minlength=MARK + 1)
    return float(counts[:MARK].sum() - counts[CHARACTER] * (1 - WORDS_PER_CHARACTER))


@cache
def _mark_hash(role: str) -> int:
    return xxhash.xxh3_64_intdigest(f"turn of {role}".encode())
