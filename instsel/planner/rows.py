"""How many rows, tokens and batches there will be, from the lengths of all rows or of a sample of them."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from instsel.data.batching import token_budget_batches


@dataclass(frozen=True)
class Batches:
    """Batches of a model: how many, and their tokens, padding included."""

    count: int = 0
    padded: int = 0

    def __add__(self, other: "Batches") -> "Batches":
        return Batches(self.count + other.count, self.padded + other.padded)


def prompt_tokens(tokens: np.ndarray, answers: np.ndarray, most: int) -> np.ndarray:
    """Tokens of a row that are no answer, at least one and cut to `most`: int64 of the shape that both have."""
    return np.clip(tokens - answers, 1, most)


@dataclass(frozen=True, eq=False)
class RowSet:
    """Rows that are cut into shards of their own: a file of the pool, a shard, or a split of a target.

    Attributes:
        rows: usable rows.
        shards: files they are cut into; batches are formed within one.
        lengths: int64 (sampled,), tokens of every row, or of a sample of the rows.
        answers: int64 (sampled,), those of them that are answer tokens.
    """

    rows: int
    shards: int
    lengths: np.ndarray
    answers: np.ndarray

    @property
    def exact(self) -> bool:
        """Whether every row's length is known."""
        return len(self.lengths) == self.rows

    @property
    def tokens(self) -> int:
        """Tokens of all rows; an estimate unless `exact`."""
        if not self.rows:
            return 0
        return int(self.lengths.sum()) if self.exact else round(self.rows * float(self.lengths.mean()))

    @property
    def rows_per_shard(self) -> int:
        """Rows of the largest shard."""
        return -(-self.rows // self.shards)

    def prompts(self, most: int) -> "RowSet":
        """The same rows without their answers, see `prompt_tokens`."""
        lengths = prompt_tokens(self.lengths, self.answers, most)
        return RowSet(self.rows, self.shards, lengths, np.zeros_like(lengths))

    def alone(self) -> "RowSet":
        """The same rows' answers, each row's as one text with the token before it."""
        return RowSet(self.rows, self.shards, self.answers + 1, self.answers)

    def batches(self, budget: int) -> Batches:
        """What `token_budget_batches` makes of the shards; a sample stands for the rows that were not looked at."""
        total = Batches()
        for lengths, times in self._shards():
            found = token_budget_batches(lengths.tolist(), budget)
            padded = sum(int(lengths[batch].max()) * len(batch) for batch in found)
            total += Batches(times * len(found), times * padded)
        return total

    def _shards(self) -> Iterator[tuple[np.ndarray, int]]:
        """Lengths of a shard's rows, and how many shards have such rows."""
        if not self.rows:
            return
        if self.exact:
            yield from ((part, 1) for part in np.array_split(self.lengths, self.shards))
            return
        smaller, larger = divmod(self.rows, self.shards)
        for rows, times in ((smaller + 1, larger), (smaller, self.shards - larger)):
            if rows and times:
                # Evenly spread over the sample, over and over where the shard has more rows than it.
                yield self.lengths[np.arange(rows) * len(self.lengths) // rows], times


Pick = tuple[int, list[int]]
"""Number of a set, and places in its `lengths`."""


def pick_batches(sets: Sequence[RowSet], budget: int, count: int) -> tuple[list[Pick], list[Pick]]:
    """Batches to warm up with, and batches whose time tells that of all.

    Args:
        sets: at least one with rows.
        budget: padded tokens of a batch.
        count: batches to time.

    Returns:
        The batch of the longest rows and the one of the most padded tokens, which show how much memory is needed; and
        at most `count` batches, evenly spread over the padded tokens of all rows ordered by length, and shuffled, as
        whoever times them may stop early.
    """
    picks: list[Pick] = []
    widths, padded, weights = [], [], []
    for number, rows in enumerate(sets):
        for batch in token_budget_batches(rows.lengths.tolist(), budget):
            picks.append((number, batch))
            widths.append(int(rows.lengths[batch].max()))
            padded.append(widths[-1] * len(batch))
            weights.append(padded[-1] * rows.rows / len(rows.lengths))
    order = np.argsort(widths, kind="stable")
    reached = np.cumsum(np.asarray(weights)[order])
    wanted = (np.arange(count) + 0.5) / count * reached[-1]
    spread = np.random.default_rng(0).permutation(np.unique(np.searchsorted(reached, wanted)))
    largest = dict.fromkeys([int(np.argmax(widths)), int(np.argmax(padded))])
    return [picks[place] for place in largest], [picks[order[place]] for place in spread]


def pick_rows(sets: Sequence[RowSet], longest: int, drawn: int, seed: int) -> tuple[list[Pick], list[Pick]]:
    """Rows for training steps, as picks of one row: the `longest` longest ones, and `drawn` by lot.

    A row of a set is drawn with the chance that a row of all sets has to be one that it stands for. Where there are
    fewer rows than asked for, some come again.
    """
    lengths = np.concatenate([rows.lengths for rows in sets])
    owners = np.repeat(np.arange(len(sets)), [len(rows.lengths) for rows in sets])
    starts = np.cumsum([0, *(len(rows.lengths) for rows in sets)])
    shares = np.concatenate([np.full(len(r.lengths), r.rows / max(1, len(r.lengths))) for r in sets])
    by_length = np.resize(np.argsort(-lengths, kind="stable"), longest)
    lots = np.random.default_rng(seed).choice(
        len(lengths), drawn, replace=drawn > len(lengths), p=shares / shares.sum()
    )
    first, then = ([(int(owners[i]), [int(i - starts[owners[i]])]) for i in found] for found in (by_length, lots))
    return first, then


@dataclass(frozen=True)
class LineSample:
    """Lines of a file: how many there are, how many hold a row, and a uniform sample of these, in their order."""

    lines: int
    rows: int
    sample: list[bytes]


def sample_lines(chunks: Iterable[tuple[int, list[bytes]]], count: int, seed: Sequence[int]) -> LineSample:
    """Count lines and draw `count` that are not blank, every set of them as likely, in one pass.

    Args:
        chunks: (number of the first line, lines), as `read_chunks` yields them.
        count: size of the sample; all rows where there are no more.
        seed: seed of the draw.
    """
    random = np.random.default_rng(list(seed))
    total = rows = 0
    kept: list[tuple[float, int, bytes]] = []
    for first, lines in chunks:
        keys = random.random(len(lines)).tolist()
        found = [(key, first + place, line) for place, (key, line) in enumerate(zip(keys, lines, strict=True)) if line]
        kept = heapq.nsmallest(count, kept + found)
        total, rows = total + len(lines), rows + len(found)
    return LineSample(total, rows, [line for _, _, line in sorted(kept, key=lambda item: item[1])])
