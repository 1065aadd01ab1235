"""Which rows and batches are timed, and a sample of a file's lines."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from instsel.data.batching import token_budget_batches
from instsel.study.estimates import RowSet

Pick = tuple[int, list[int]]
"""Number of a set, and indices into its `lengths`."""


def pick_batches(sets: Sequence[RowSet], budget: int, count: int) -> tuple[list[Pick], list[Pick]]:
    """Pick batches to warm up with, and batches whose time is representative of all.

    Args:
        sets: at least one with rows.
        budget: padded tokens of a batch.
        count: batches to time.

    Returns:
        The batch of the longest rows and the one of the most padded tokens, which show how much memory is needed; and
        at most `count` batches, evenly spread over the padded tokens of all rows ordered by length, and shuffled, as
        the timing may stop early.
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
    return [picks[index] for index in largest], [picks[order[index]] for index in spread]


def pick_rows(sets: Sequence[RowSet], longest: int, drawn: int, seed: int) -> tuple[list[Pick], list[Pick]]:
    """Pick rows for training steps, each by itself: the `longest` longest, and `drawn` by lot.

    A row of a set is drawn with the chance that a row of all sets has to be one that it stands for. Where there are
    fewer rows than asked for, some come again.
    """
    lengths = np.concatenate([rows.lengths for rows in sets])
    owners = np.repeat(np.arange(len(sets)), [len(rows.lengths) for rows in sets])
    starts = np.cumsum([0, *(len(rows.lengths) for rows in sets)])
    weights = np.concatenate([np.full(len(r.lengths), r.rows / max(1, len(r.lengths))) for r in sets])
    by_length = np.resize(np.argsort(-lengths, kind="stable"), longest)
    lots = np.random.default_rng(seed).choice(
        len(lengths), drawn, replace=drawn > len(lengths), p=weights / weights.sum()
    )
    first, then = ([(int(owners[i]), [int(i - starts[owners[i]])]) for i in rows] for rows in (by_length, lots))
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
        keyed = enumerate(zip(keys, lines, strict=True), first)
        filled = [(key, number, line) for number, (key, line) in keyed if line]
        kept = heapq.nsmallest(count, kept + filled)
        total, rows = total + len(lines), rows + len(filled)
    return LineSample(total, rows, [line for _, _, line in sorted(kept, key=lambda item: item[1])])
