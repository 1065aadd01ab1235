"""Methods of several seeds, mean losses and differences to the baseline."""

import numpy as np
import pytest

from instsel.report.results import comparisons_to, loss_table, pooled, stacked
from instsel.stats import Bootstrap

RUNS = {
    "base": {"a": np.array([3.0, 5.0]), "b": np.array([1.0])},
    "random-1": {"a": np.array([2.0, 4.0]), "b": np.array([1.0])},
    "random-2": {"a": np.array([1.0, 3.0]), "b": np.array([0.0])},
    "bids": {"a": np.array([1.0, 1.0]), "b": np.array([0.5])},
}
BOOTSTRAP = Bootstrap(200, 0.9, 0)
METHODS = {"base": ["base"], "random": ["random-1", "random-2"], "bids": ["bids"]}


def test_a_method_of_several_seeds_is_their_mean_example_by_example():
    by_method = pooled(RUNS, METHODS)
    np.testing.assert_array_equal(by_method["random"]["a"], [1.5, 3.5])
    np.testing.assert_array_equal(by_method["random"]["b"], [0.5])
    np.testing.assert_array_equal(by_method["bids"]["a"], RUNS["bids"]["a"])


def test_the_mean_weighs_targets_alike_whatever_their_rows():
    assert loss_table(pooled(RUNS, METHODS))["random"] == {"a": 2.5, "b": 0.5, "mean": 1.5}


def test_differences_are_to_the_baseline_and_leave_it_out():
    comparisons = comparisons_to(stacked(RUNS, METHODS), "random", BOOTSTRAP)
    assert set(comparisons) == {"base", "bids"}
    intervals = comparisons["bids"].intervals
    assert intervals["a"].difference == pytest.approx(1.0 - 2.5)
    assert intervals["mean"].difference == pytest.approx((-1.5 + 0.0) / 2)
    assert intervals["a"].low <= intervals["a"].difference <= intervals["a"].high


def test_the_seeds_of_a_method_are_in_its_interval():
    # Both rows of b are alike, so that only the seeds of random differ.
    runs = {"random-1": {"b": np.array([1.0, 1.0])}, "random-2": {"b": np.zeros(2)}, "bids": {"b": np.full(2, 0.5)}}
    methods = {"random": ["random-1", "random-2"], "bids": ["bids"]}
    interval = comparisons_to(stacked(runs, methods), "random", BOOTSTRAP)["bids"].intervals["b"]
    assert (interval.low, interval.difference, interval.high) == (-0.5, 0.0, 0.5)


def test_without_heldout_rows_there_is_nothing_to_compare():
    assert comparisons_to({"base": {}, "bids": {}}, "base", BOOTSTRAP) == {}
    assert comparisons_to({"bids": {"a": np.ones((1, 2))}}, "random", BOOTSTRAP) == {}
    assert loss_table({"base": {}}) == {"base": {}}
