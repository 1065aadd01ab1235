from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.selection import random, stratified


def proportional(sizes: list[int], budget: int) -> list[int]:
    exact = [Fraction(size * budget, sum(sizes)) for size in sizes]
    quotas = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda group: (quotas[group] - exact[group], group))
    for group in by_remainder[: budget - sum(quotas)]:
        quotas[group] += 1
    return quotas


def equal(sizes: list[int], budget: int) -> list[int]:
    """One row a group and round, while there is any."""
    quotas = [0] * len(sizes)
    while sum(quotas) < budget:
        for group, size in enumerate(sizes):
            if quotas[group] < size and sum(quotas) < budget:
                quotas[group] += 1
    return quotas


PLAIN = {"proportional": proportional, "equal": equal}


@settings(max_examples=100, deadline=None)
@given(
    groups=st.lists(st.sampled_from("dacb"), min_size=1, max_size=40),
    shares=st.sampled_from(["proportional", "equal"]),
    seed=st.integers(0, 100),
)
def test_equals_the_plain_rule(groups: list[str], shares: str, seed: int) -> None:
    labels = sorted(set(groups))
    order = random.select(len(groups), len(groups), seed=seed).indices.tolist()
    for budget in (0, 1, len(groups) // 2, len(groups), len(groups) + 1):
        left = PLAIN[shares]([groups.count(label) for label in labels], min(budget, len(groups)))
        expected = []
        for row in order:
            group = labels.index(groups[row])
            if left[group]:
                left[group] -= 1
                expected.append(row)
        got = stratified.select(groups, budget, shares=shares, seed=seed)
        assert got.indices.tolist() == expected
        assert got.driven_by.tolist() == [labels.index(groups[row]) for row in expected]
        assert got.scores.tolist() == [0.0] * len(expected)


def counts(groups: list, budget: int, shares: str) -> list[int]:
    selection = stratified.select(groups, budget, shares=shares, seed=0)
    return np.bincount(selection.driven_by, minlength=len(set(groups))).tolist()


def test_proportional_shares_keep_the_mixture() -> None:
    assert counts(["a"] * 60 + ["b"] * 30 + ["c"] * 10, 10, "proportional") == [6, 3, 1]
    # 10/3 each: the remainders are equal, and the first in sorted order gets the row that is over.
    assert counts(["z"] * 30 + ["y"] * 30 + ["x"] * 30, 10, "proportional") == [4, 3, 3]


def test_equal_shares_of_small_groups_go_to_the_others() -> None:
    assert counts(["a"] * 60 + ["b"] * 30 + ["c"] * 2, 32, "equal") == [15, 15, 2]
    assert counts(["a"] * 60 + ["b"] * 30 + ["c"] * 30, 10, "equal") == [4, 3, 3]


def test_one_group_is_the_random_draw() -> None:
    selection = stratified.select(["a"] * 50, 20, shares="equal", seed=3)
    assert selection.indices.tolist() == random.select(50, 20, seed=3).indices.tolist()


def test_every_row_of_a_group_is_as_likely() -> None:
    groups = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1])
    drawn = np.zeros(9)
    for seed in range(2000):
        drawn[stratified.select(groups, 3, shares="proportional", seed=seed).indices] += 1
    # Each row is binomial with mean 2000/3 and deviation 21.1.
    assert np.abs(drawn - 2000 / 3).max() < 4.5 * 21.1


@pytest.mark.parametrize(
    ("groups", "budget", "shares", "seed", "message"),
    [
        ([["a"], ["b"]], 1, "equal", 0, "groups must have rank 1"),
        ([1.0, np.nan], 1, "equal", 0, "NaN at position 1"),
        ([None, "a"], 1, "equal", 0, "sort"),
        (["a"], -1, "equal", 0, "-1"),
        (["a"], 1, "even", 0, "'even'"),
        (["a"], 1, "equal", -4, "-4"),
    ],
)
def test_bad_arguments_name_what_is_wrong(groups: list, budget: int, shares: str, seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stratified.select(groups, budget, shares=shares, seed=seed)
