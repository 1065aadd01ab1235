"""Columns of several seeds, mean losses and differences to the baseline."""

import numpy as np
import pytest

from instsel.report.summary import differences, loss_table, pooled

RUNS = {
    "base": {"a": np.array([3.0, 5.0]), "b": np.array([1.0])},
    "random-1": {"a": np.array([2.0, 4.0]), "b": np.array([1.0])},
    "random-2": {"a": np.array([1.0, 3.0]), "b": np.array([0.0])},
    "bids": {"a": np.array([1.0, 1.0]), "b": np.array([0.5])},
}
COLUMNS = {"base": ["base"], "random": ["random-1", "random-2"], "bids": ["bids"]}


def test_a_column_of_several_seeds_is_their_mean_example_by_example():
    columns = pooled(RUNS, COLUMNS)
    np.testing.assert_array_equal(columns["random"]["a"], [1.5, 3.5])
    np.testing.assert_array_equal(columns["random"]["b"], [0.5])
    np.testing.assert_array_equal(columns["bids"]["a"], RUNS["bids"]["a"])


def test_the_mean_weighs_targets_alike_whatever_their_rows():
    assert loss_table(pooled(RUNS, COLUMNS))["random"] == {"a": 2.5, "b": 0.5, "mean": 1.5}


def test_differences_are_to_the_baseline_and_leave_it_out():
    found = differences(pooled(RUNS, COLUMNS), "random", samples=200, confidence=0.9, seed=0)
    assert set(found) == {"base", "bids"}
    assert found["bids"]["a"].difference == pytest.approx(1.0 - 2.5)
    assert found["bids"]["mean"].difference == pytest.approx((-1.5 + 0.0) / 2)
    assert found["bids"]["a"].low <= found["bids"]["a"].difference <= found["bids"]["a"].high


def test_without_heldout_rows_there_is_nothing_to_compare():
    assert differences({"base": {}, "bids": {}}, "base", samples=100, confidence=0.9, seed=0) == {}
    assert loss_table({"base": {}}) == {"base": {}}
