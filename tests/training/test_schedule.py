import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsel.training.schedule import (
    accumulation_steps,
    epoch_order,
    global_batches,
    learning_rate_at,
    micro_batches,
    steps_per_epoch,
)


def test_an_epochs_order_is_a_permutation_that_seed_and_epoch_decide():
    first = epoch_order(50, 1, 7)
    assert first.dtype == np.int64
    assert sorted(first.tolist()) == list(range(50))
    assert np.array_equal(first, epoch_order(50, 1, 7))
    assert not np.array_equal(first, epoch_order(50, 2, 7))
    assert not np.array_equal(first, epoch_order(50, 1, 8))


@given(st.integers(1, 60), st.integers(1, 17), st.integers(1, 5), st.integers(1, 6))
def test_workers_together_take_every_row_once_in_equally_many_rounds(rows, batch_size, world_size, micro_size):
    order = epoch_order(rows, 1, 0)
    batches = global_batches(order, batch_size)
    assert len(batches) == steps_per_epoch(rows, batch_size)
    rounds = accumulation_steps(batch_size, micro_size, world_size)
    taken = []
    for batch in batches:
        for rank in range(world_size):
            micro = micro_batches(batch.tolist(), rank, world_size, micro_size, rounds)
            assert len(micro) == rounds
            assert all(len(part) <= micro_size for part in micro)
            taken += [row for part in micro for row in part]
    assert sorted(taken) == list(range(rows))


def test_a_worker_takes_every_world_size_th_row():
    assert micro_batches(list("abcdefg"), 1, 3, 2, 2) == [["b", "e"], []]


def test_linear_schedule_rises_to_the_peak_and_falls_by_equal_amounts():
    rates = [learning_rate_at(step, 10, 1.0, "linear", 0.2) for step in range(10)]
    assert rates == pytest.approx([1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


def test_cosine_schedule_is_half_a_period():
    rates = [learning_rate_at(step, 8, 2.0, "cosine", 0.0) for step in range(8)]
    assert rates == pytest.approx([1 + math.cos(math.pi * step / 8) for step in range(8)])


def test_constant_schedule_keeps_the_peak():
    assert [learning_rate_at(step, 4, 3.0, "constant", 0.25) for step in range(4)] == [3.0] * 4


@given(st.integers(1, 40), st.sampled_from(["linear", "cosine", "constant"]), st.floats(0, 1), st.floats(1e-6, 1))
def test_every_step_learns_something_and_none_more_than_the_peak(steps, schedule, ratio, peak):
    rates = [learning_rate_at(step, steps, peak, schedule, ratio) for step in range(steps)]
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)


def test_unknown_schedules_and_steps_are_refused():
    with pytest.raises(ValueError, match="'step'"):
        learning_rate_at(0, 3, 1.0, "step", 0.0)
    with pytest.raises(ValueError, match="step is 3"):
        learning_rate_at(3, 3, 1.0, "linear", 0.0)
