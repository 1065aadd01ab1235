"""Counting batches from lengths, and choosing what is timed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsel.data.batching import token_budget_batches
from instsel.planner.rows import RowSet, pick_batches, pick_rows, sample_lines

LENGTHS = st.lists(st.integers(1, 90), min_size=1, max_size=40)


def row_set(lengths: list[int], rows: int | None = None, shards: int = 1, answers: int = 1) -> RowSet:
    known = np.asarray(lengths, dtype=np.int64)
    return RowSet(len(lengths) if rows is None else rows, shards, known, np.full_like(known, answers))


@given(LENGTHS, st.integers(1, 5), st.integers(20, 200))
def test_where_all_lengths_are_known_the_batches_are_those_of_the_shards(lengths, shards, budget):
    counted = row_set(lengths, shards=shards).batches(budget)
    count = padded = 0
    for part in np.array_split(lengths, shards):
        for batch in token_budget_batches(part.tolist(), budget):
            count, padded = count + 1, padded + len(batch) * max(part[row] for row in batch)
    assert (counted.count, counted.padded) == (count, padded)


def test_a_sample_stands_for_the_rows_that_were_not_looked_at():
    # 1,000 rows in 4 shards of 250, all of 10 tokens: 25 rows fill a batch of 250 tokens, 10 batches fill a shard.
    rows = row_set([10] * 7, rows=1000, shards=4)
    assert not rows.exact
    assert rows.tokens == 10_000
    assert (rows.batches(250).count, rows.batches(250).padded) == (40, 10_000)


def test_rows_that_do_not_divide_into_the_shards_are_all_counted():
    assert row_set([10, 10], rows=7, shards=3).batches(10).count == 7
    assert row_set([10], rows=2, shards=5).batches(10).count == 2


def test_a_sample_with_short_and_long_rows_is_spread_over_a_shard_evenly():
    rows = row_set([1] * 50 + [9] * 50, rows=40, shards=4)
    assert rows.batches(10**6).padded == 40 * 9
    assert rows.batches(1).padded == 20 * 1 + 20 * 9


@given(st.lists(LENGTHS, min_size=1, max_size=4), st.integers(20, 200), st.integers(1, 6))
def test_warming_up_takes_the_longest_row_and_the_fullest_batch(sets, budget, count):
    rows = [row_set(lengths) for lengths in sets]
    warm_up, timed = pick_batches(rows, budget, count)
    longest = [[sets[number][row] for row in rows] for number, rows in warm_up]
    every = [[known[row] for row in batch] for known in sets for batch in token_budget_batches(known, budget)]
    assert max(max(batch) for batch in longest) == max(max(known) for known in sets)
    assert max(max(batch) * len(batch) for batch in longest) == max(max(batch) * len(batch) for batch in every)
    assert 1 <= len(timed) <= count
    assert all([sets[number][row] for row in rows] in every for number, rows in timed)


def test_timed_batches_are_spread_over_the_tokens_and_weigh_a_sample_as_its_rows():
    # Batches of one row. 9 in 10 tokens belong to the set whose rows have 30 tokens.
    small, large = row_set([10] * 30), row_set([30] * 10, rows=90)
    _, timed = pick_batches([small, large], 30, 10)
    assert [number for number, _ in timed].count(0) == 1


def test_rows_to_train_on_start_with_the_longest():
    first, drawn = pick_rows([row_set([5, 9]), row_set([7, 8, 1])], 3, 4, seed=0)
    assert first == [(0, [1]), (1, [1]), (1, [0])]
    assert len({(number, *rows) for number, rows in drawn}) == 4


def test_rows_to_train_on_come_again_where_there_are_too_few():
    first, drawn = pick_rows([row_set([5, 9])], 5, 6, seed=0)
    assert [rows for _, rows in first] == [[1], [0], [1], [0], [1]]
    assert len(drawn) == 6


def test_a_set_is_drawn_from_as_often_as_it_has_rows():
    _, drawn = pick_rows([row_set([5] * 400), row_set([5] * 400, rows=3600)], 1, 400, seed=0)
    share = sum(number for number, _ in drawn) / 400
    # 400 draws without replacement from 800 rows, nine in ten of the weight on one half.
    assert 0.78 < share < 0.92


def test_lines_are_counted_and_the_sample_keeps_their_order():
    lines = [b"" if number % 5 == 0 else b"%03d" % number for number in range(100)]
    chunks = [(start + 1, lines[start : start + 30]) for start in range(0, 100, 30)]
    sample = sample_lines(chunks, 20, [0, 3])
    assert (sample.lines, sample.rows, len(sample.sample)) == (100, 80, 20)
    assert sample.sample == sorted(set(sample.sample))
    assert b"" not in sample.sample
    assert sample_lines(chunks, 20, [0, 3]) == sample
    assert sample_lines(chunks, 20, [0, 4]).sample != sample.sample


def test_a_sample_as_large_as_the_file_is_the_file():
    sample = sample_lines([(1, [b"b", b"a"]), (3, [b"", b"c"])], 4, [0])
    assert (sample.lines, sample.rows, sample.sample) == (4, 3, [b"b", b"a", b"c"])


def test_every_line_is_drawn_about_as_often():
    lines = [b"%d" % number for number in range(10)]
    drawn = [line for seed in range(400) for line in sample_lines([(1, lines[:3]), (4, lines[3:])], 5, [seed]).sample]
    counts = [drawn.count(line) for line in lines]
    # Binomial(400, 1/2): 60 is six deviations.
    assert all(abs(count - 200) < 60 for count in counts)


def test_no_rows_take_no_batches():
    rows = row_set([])
    assert (rows.tokens, rows.batches(10).count) == (0, 0)


@pytest.mark.parametrize(("rows", "shards", "largest"), [(10, 3, 4), (9, 3, 3), (2, 5, 1)])
def test_the_largest_shard(rows, shards, largest):
    assert row_set([5], rows=rows, shards=shards).rows_per_shard == largest


def test_prompts_are_what_is_no_answer_and_no_longer_than_may_be():
    prompts = row_set([10, 30, 4], rows=6, shards=2, answers=4).prompts(20)
    assert (prompts.lengths.tolist(), prompts.rows, prompts.shards) == ([6, 20, 1], 6, 2)


def test_an_answer_alone_has_the_token_before_it():
    alone = row_set([10, 30], rows=4, shards=2, answers=4).alone()
    assert (alone.lengths.tolist(), alone.tokens, alone.shards) == ([5, 5], 20, 2)
