"""Methods of several seeds, mean losses and differences to the baseline."""

import numpy as np
import pytest

from instsel.report.results import differences_to, loss_table, pooled

RUNS = {
    "base": {"a": np.array([3.0, 5.0]), "b": np.array([1.0])},
    "random-1": {"a": np.array([2.0, 4.0]), "b": np.array([1.0])},
    "random-2": {"a": np.array([1.0, 3.0]), "b": np.array([0.0])},
    "bids": {"a": np.array([1.0, 1.0]), "b": np.array([0.5])},
}
METHODS = {"base": ["base"], "random": ["random-1", "random-2"], "bids": ["bids"]}


def test_a_method_of_several_seeds_is_their_mean_example_by_example():
    by_method = pooled(RUNS, METHODS)
    np.testing.assert_array_equal(by_method["random"]["a"], [1.5, 3.5])
    np.testing.assert_array_equal(by_method["random"]["b"], [0.5])
    np.testing.assert_array_equal(by_method["bids"]["a"], RUNS["bids"]["a"])


def test_the_mean_weighs_targets_alike_whatever_their_rows():
    assert loss_table(pooled(RUNS, METHODS))["random"] == {"a": 2.5, "b": 0.5, "mean": 1.5}


def test_differences_are_to_the_baseline_and_leave_it_out():
    intervals = differences_to(pooled(RUNS, METHODS), "random", samples=200, confidence=0.9, seed=0)
    assert set(intervals) == {"base", "bids"}
    assert intervals["bids"]["a"].difference == pytest.approx(1.0 - 2.5)
    assert intervals["bids"]["mean"].difference == pytest.approx((-1.5 + 0.0) / 2)
    assert intervals["bids"]["a"].low <= intervals["bids"]["a"].difference <= intervals["bids"]["a"].high


def test_without_heldout_rows_there_is_nothing_to_compare():
    assert differences_to({"base": {}, "bids": {}}, "base", samples=100, confidence=0.9, seed=0) == {}
    assert loss_table({"base": {}}) == {"base": {}}
