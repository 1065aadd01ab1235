import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_some_rows_keep_the_order_of_the_draw_from_all() -> None:
    among = np.arange(30) % 3 == 0
    order = random.select(30, 30, seed=5).indices
    for budget in (0, 4, 10, 30):
        assert random.select(30, budget, seed=5, among=among).indices.tolist() == order[among[order]][:budget].tolist()


@pytest.mark.parametrize("among", [np.ones(29, bool), np.ones(30), [True]])
def test_which_rows_may_be_picked_is_one_bool_a_row(among: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"among must be bool \(30,\), got"):
        random.select(30, 2, seed=0, among=among)


def test_a_draw_without_sources_depends_on_what_it_did_before_there_were_any() -> None:
    assert random.Random(method="random").settings() == {"version": 1, "method": "random"}
    named = random.Random(method="random", sources=["b", "a"])
    assert named.settings() == {"version": 1, "method": "random", "sources": ["b", "a"]}
    assert random.Random(method="random").is_comparable and not named.is_comparable


def test_sources_and_the_shares_of_a_mixture_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="'random' has sources and a mixture, whose shares are of all rows"):
        random.Random(method="random", sources=["a"], mixture="pool").check(["t"], "cosine")


def test_an_error_names_some_of_many_sources() -> None:
    with pytest.raises(ValueError, match="it has source00, .*, source09 and 2 more"):
        random.Random(method="random", sources=["x"]).check_sources([f"source{row:02d}" for row in range(12)])


def naive_match(tokens: np.ndarray, reference: list[int], order: list[int]) -> list[int]:
    """Groups as they are said to be, and the first of the draw in each."""
    starts = [1]
    while starts[-1] <= max(tokens):
        starts.append(starts[-1] + max(1, starts[-1] // 20))
    group = [max(index for index, start in enumerate(starts) if start <= length) for length in tokens]
    left = [sum(group[row] == index for row in reference) for index in range(len(starts))]
    picked = []
    for row in order:
        if left[group[row]]:
            left[group[row]] -= 1
            picked.append(row)
    return picked


@settings(max_examples=60, deadline=None)
@given(tokens=st.lists(st.integers(1, 400), min_size=1, max_size=30), seed=st.integers(0, 10**6), data=st.data())
def test_matched_rows_are_as_many_and_as_long(tokens: list[int], seed: int, data: st.DataObject) -> None:
    reference = data.draw(st.lists(st.integers(0, len(tokens) - 1), unique=True))
    lengths = np.array(tokens)
    selection = random.match_lengths(lengths, np.array(reference, np.int64), seed=seed)
    order = random.select(len(tokens), len(tokens), seed=seed).indices.tolist()
    assert selection.indices.tolist() == naive_match(lengths, reference, order)
    for drawn, wanted in zip(sorted(lengths[selection.indices]), sorted(lengths[reference]), strict=True):
        assert drawn == wanted or (min(drawn, wanted) >= 40 and abs(drawn - wanted) <= 0.05 * min(drawn, wanted))


def test_rows_of_a_length_are_drawn_uniformly() -> None:
    tokens = np.array([10] * 8 + [500] * 4)
    counts = np.zeros(12)
    for seed in range(2000):
        counts[random.match_lengths(tokens, np.array([0, 1, 8]), seed=seed).indices] += 1
    # Two of eight and one of four.
    np.testing.assert_allclose(counts / 2000, 0.25, atol=0.04)


@pytest.mark.parametrize(
    ("tokens", "reference", "message"),
    [
        ([3, 0], [0], "tokens must be whole numbers"),
        ([3.5], [0], "tokens must be whole numbers"),
        ([3, 4], [2], "reference must be rows below 2, got 2"),
        ([3, 4], [1, 1], "indices must differ"),
        ([3, 4], [-1], "indices must not be negative"),
    ],
)
def test_lengths_that_cannot_be_matched_are_rejected(tokens: list[float], reference: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random.match_lengths(np.array(tokens), np.array(reference), seed=0)


@pytest.mark.parametrize(
    "keys",
    [
        {"lengths_of": "bids", "extra_for": "bids"},
        {"lengths_of": "bids", "mixture": "pool"},
        {"extra_for": "bids", "mixture": "pool"},
        {"lengths_of": "bids", "sources": ["a"]},
    ],
)
def test_keys_that_each_say_which_rows_are_drawn_contradict_each_other(keys: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"'random' has {' and '.join(sorted(keys, key=ORDER.index))}, which each say"):
        random.Random.model_validate({"method": "random", **keys}).check(["t"], "cosine")


ORDER = ["lengths_of", "extra_for", "mixture", "sources"]


def test_only_a_plain_draw_is_what_others_are_compared_with() -> None:
    for keys in ({"lengths_of": "bids"}, {"extra_for": "bids"}):
        method = random.Random.model_validate({"method": "random", **keys})
        assert not method.is_comparable and method.refers_to == "bids"
        assert method.settings() == {"version": 1, "method": "random", **keys}
        assert method.is_extended is ("extra_for" in keys)


def test_fault_12_a_draw_that_keeps_to_a_mixture_is_no_baseline():
    assert not random.Random(method="random", name="mixed", mixture="pool").is_comparable
