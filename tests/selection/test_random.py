import numpy as np
import pytest

from instsel.selection import random


def test_picks_are_the_same_on_every_platform() -> None:
    assert random.select(10, 10, seed=7).indices.tolist() == [6, 3, 4, 9, 0, 2, 8, 7, 5, 1]


@pytest.mark.parametrize("budget", [0, 1, 29, 30, 31])
def test_picks_differ_and_lie_in_the_pool(budget: int) -> None:
    selection = random.select(30, budget, seed=1)
    assert len(set(selection.indices.tolist())) == min(budget, 30)
    assert set(selection.indices.tolist()) <= set(range(30))
    assert selection.scores.tolist() == [0.0] * min(budget, 30)
    assert selection.driven_by is None


def test_a_smaller_budget_is_the_beginning_of_a_larger_one() -> None:
    assert random.select(100, 10, seed=3).indices.tolist() == random.select(100, 60, seed=3).indices[:10].tolist()


def test_seeds_differ() -> None:
    assert random.select(100, 50, seed=3).indices.tolist() != random.select(100, 50, seed=4).indices.tolist()


def test_every_row_is_as_likely_in_every_place() -> None:
    counts = np.zeros((5, 5))
    for seed in range(2000):
        counts[np.arange(5), random.select(5, 5, seed=seed).indices] += 1
    # Each cell is binomial with mean 400 and deviation 17.9.
    assert np.abs(counts - 400).max() < 4.5 * 17.9


@pytest.mark.parametrize(
    ("n", "budget", "seed", "message"), [(-1, 1, 0, "n must"), (5, -2, 0, "-2"), (5, 1, -1, "seed"), (5, 1.5, 0, "1.5")]
)
def test_bad_arguments_name_what_is_wrong(n: int, budget: int, seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random.select(n, budget, seed=seed)
