"""The rules BIDS is compared with, against plain loops and the worked case of its paper's matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from instsel.selection import bids, rules

# Sums over tasks of any sizes are what most tests here are about.
pytestmark = pytest.mark.filterwarnings("ignore:tasks have from")

# Two tasks of one column; BIDS takes rows 0 and 2 of it.
WORKED = np.array([[3, 0.1], [1, -0.3], [-1, 0.3], [-3, -0.1]])


def naive(matrix, budget, rule, normalize, tasks):
    matrix = matrix.astype(np.float64)
    columns = list(range(matrix.shape[1]))
    if normalize and len(matrix) > 1:
        columns = [j for j in columns if len(set(matrix[:, j])) > 1]
        matrix = (matrix - matrix.mean(axis=0)) / np.where(matrix.std(axis=0) > 0, matrix.std(axis=0), 1)
    names = sorted(set(tasks))
    scores, drivers = [], []
    for row in matrix:
        if rule == "sum":
            values = [sum(row[j] for j in columns)]
        elif rule == "instance_max":
            values = [row[j] for j in columns]
        else:
            values = [sum(row[j] for j in columns if tasks[j] == name) for name in names]
        scores.append(max(values))
        drivers.append(values.index(max(values)))
    order = sorted(range(len(matrix)), key=lambda i: (-scores[i], i))[:budget]
    drivers = [columns[drivers[i]] if rule == "instance_max" else drivers[i] for i in order]
    return order, [scores[i] for i in order], drivers


@pytest.mark.parametrize("rule", rules.RULES)
def test_worked_case_takes_the_rows_of_the_larger_column(rule):
    tasks = [0, 1] if rule == "task_max" else None
    selection = rules.select(WORKED, 2, rule=rule, tasks=tasks)
    assert selection.indices.tolist() == [0, 1]
    expected = {"instance_max": [3, 1], "task_max": [3, 1], "sum": [3.1, 0.7]}[rule]
    np.testing.assert_allclose(selection.scores, expected)
    assert bids.select(WORKED, 2).indices.tolist() == [0, 2]


# Few different whole numbers make ties and equal rows; multiples of 0.25 keep every sum exact.
MATRICES = st.tuples(st.integers(1, 9), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.sampled_from([-2, -0.25, 0, 0.25, 1, 3]))
)


@settings(max_examples=80, deadline=None)
@given(
    MATRICES, st.sampled_from(rules.RULES), st.integers(0, 10), st.lists(st.sampled_from("ab"), min_size=6, max_size=6)
)
def test_every_rule_is_the_plain_loop(matrix, rule, budget, labels):
    tasks = labels[: matrix.shape[1]]
    given_tasks = tasks if rule == "task_max" else None
    selection = rules.select(matrix, budget, rule=rule, tasks=given_tasks)
    order, scores, drivers = naive(matrix, budget, rule, False, tasks)
    assert selection.indices.tolist() == order
    assert selection.scores.tolist() == scores
    assert selection.driven_by is None if rule == "sum" else selection.driven_by.tolist() == drivers


@pytest.mark.filterwarnings("ignore:.*without deviation")
@pytest.mark.parametrize("rule", rules.RULES)
def test_normalised_rules_stand_on_standardised_columns_and_leave_constant_ones_out(rule):
    matrix = np.random.default_rng(0).normal(size=(40, 5)) * [1, 100, 1e-3, 1, 1]
    matrix[:, 3] = 7
    tasks = ["b", "a", "b", "a", "a"]
    selection = rules.select(matrix, 9, rule=rule, normalize=True, tasks=tasks if rule == "task_max" else None)
    order, scores, drivers = naive(matrix, 9, rule, True, tasks)
    assert selection.indices.tolist() == order
    np.testing.assert_allclose(selection.scores, scores)
    assert selection.driven_by is None if rule == "sum" else selection.driven_by.tolist() == drivers


def test_equal_rows_are_taken_from_the_lowest_on_whatever_their_place():
    matrix = np.tile(np.random.default_rng(0).normal(size=(1, 37)), (5000, 1))
    for rule in rules.RULES:
        selection = rules.select(matrix, 50, rule=rule, tasks=np.arange(37) % 3 if rule == "task_max" else None)
        assert selection.indices.tolist() == list(range(50))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rule": "max"}, "rule must be one of instance_max, task_max, sum, got 'max'"),
        ({"rule": "task_max"}, "tasks must be given for task_max"),
        ({"tasks": [0, 1]}, "and for no other rule"),
        ({"rule": "task_max", "tasks": [0]}, "one label for each of 2 columns, got 1"),
        ({"task_function": "max"}, "task_function must be 'sum' or 'mean', got 'max'"),
        ({"budget": -1}, "budget must be at least 0, got -1"),
        ({"attribution": WORKED[0]}, "rank 2"),
        ({"attribution": WORKED * np.nan}, "finite"),
        ({"attribution": np.ones((3, 2)), "normalize": True}, "a column that varies"),
    ],
)
def test_wrong_arguments_are_refused(changed, message):
    arguments = {"attribution": WORKED, "budget": 1, "rule": "sum", **changed}
    with pytest.raises(ValueError, match=message):
        rules.select(arguments.pop("attribution"), arguments.pop("budget"), **arguments)


def test_means_give_tasks_of_all_sizes_the_same_say_where_sums_favour_the_larger():
    matrix = np.array([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 2.0]])
    tasks = ["large", "large", "large", "small"]
    with pytest.warns(UserWarning, match="from 1 to 3 validation examples"):
        assert rules.select(matrix, 1, rule="task_max", tasks=tasks).indices.tolist() == [0]
    selection = rules.select(matrix, 1, rule="task_max", tasks=tasks, task_function="mean")
    assert (selection.indices.tolist(), selection.scores.tolist(), selection.driven_by.tolist()) == ([1], [2.0], [1])


@pytest.mark.filterwarnings("ignore:.*without deviation")
def test_a_task_that_has_no_column_left_is_refused():
    matrix = np.array([[1.0, 7.0], [0.0, 7.0]])
    with pytest.raises(ValueError, match=r"none of \[1\] does"):
        rules.select(matrix, 1, rule="task_max", tasks=["a", "b"], normalize=True)


def test_pools_of_more_than_one_block_keep_their_rows_apart():
    matrix = np.random.default_rng(0).normal(size=(50_000, 100)).astype(np.float32)
    selection = rules.select(matrix, 500, rule="instance_max")
    assert selection.indices.tolist() == np.argsort(-matrix.max(axis=1), kind="stable")[:500].tolist()
    assert selection.driven_by.tolist() == matrix.argmax(axis=1)[selection.indices].tolist()


def test_one_row_is_taken_as_it_is_and_no_rows_give_an_empty_selection():
    assert rules.select(np.array([[0.25, 0.5]]), 3, rule="sum", normalize=True).scores.tolist() == [0.75]
    assert len(rules.select(np.empty((0, 3)), 5, rule="instance_max")) == 0
