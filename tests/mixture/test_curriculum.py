import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsel.mixture.curriculum import passes, schedule

T3 = np.repeat([0, 1, 2], [5, 9, 6])


def test_T3_three_passes():
    made = schedule(T3, seed=2024)
    assert [len(one) for one in made] == [20, 20, 20]
    counts = np.array([np.bincount(T3[one], minlength=3) for one in made])
    assert counts[:, 0].tolist() == [7, 5, 3]
    assert counts[:, 1].tolist() == [9, 9, 9]
    assert counts[:, 2].tolist() == [4, 6, 8]
    assert np.bincount(np.concatenate(made)).tolist() == [3] * 20


@given(st.lists(st.sampled_from([0, 1, 2]), min_size=0, max_size=60), st.integers(0, 9), st.integers(0, 12))
def test_every_row_three_times_or_refused(levels, seed, held):
    early, late = levels.count(0), levels.count(2)
    if held > min(early, late):
        with pytest.raises(ValueError, match=f"{early} rows are preliminary and {late} subsequent"):
            schedule(levels, seed=seed, held_back=held)
        return
    made = schedule(levels, seed=seed, held_back=held)
    assert all(len(one) == len(levels) and one.dtype == np.int64 for one in made)
    assert np.bincount(np.concatenate(made), minlength=len(levels)).tolist() == [3] * len(levels)
    again = schedule(levels, seed=seed, held_back=held)
    assert [one.tolist() for one in made] == [one.tolist() for one in again]


def test_seed_changes_the_order():
    assert schedule(T3, seed=0)[1].tolist() != schedule(T3, seed=1)[1].tolist()


def test_large_sets_hold_back_a_twentieth():
    levels = np.repeat([0, 2], [30_000, 30_000])
    first = schedule(levels, seed=0)[0]
    assert np.bincount(levels[first]).tolist() == [33_000, 0, 27_000]


@pytest.mark.parametrize("order", ["shuffled", "sorted", "reversed"])
def test_every_pass_has_every_row_once(order):
    made = passes(T3, order, 2, seed=3)
    assert [sorted(one.tolist()) for one in made] == [list(range(20))] * 2
    assert made[0].tolist() != made[1].tolist()


def test_sorted_and_reversed_keep_the_levels_in_order():
    assert T3[passes(T3, "sorted", 1, seed=0)[0]].tolist() == sorted(T3)
    assert T3[passes(T3, "reversed", 1, seed=0)[0]].tolist() == sorted(T3, reverse=True)


def test_rows_of_a_level_are_shuffled():
    first = passes(T3, "sorted", 1, seed=0)[0]
    assert first[:5].tolist() != [0, 1, 2, 3, 4] or first[5:14].tolist() != list(range(5, 14))


def test_shuffled_does_not_look_at_the_levels():
    assert passes(T3, "shuffled", 1, seed=5)[0].tolist() == passes(T3[::-1], "shuffled", 1, seed=5)[0].tolist()


def test_three_pass_is_the_schedule_and_takes_three_epochs():
    assert [one.tolist() for one in passes(T3, "three_pass", 3, seed=4)] == [x.tolist() for x in schedule(T3, seed=4)]
    with pytest.raises(ValueError, match="3 epochs, not 2"):
        passes(T3, "three_pass", 2, seed=4)


def test_unknown_order_and_level_are_refused():
    with pytest.raises(ValueError, match="choose three_pass"):
        passes(T3, "random", 3, seed=0)
    with pytest.raises(ValueError, match="0, 1 or 2"):
        schedule([0, 3], seed=0)
