import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from instsel.selection import smart, submodular

FUNCTIONS = {
    "facility_location": submodular.facility_location,
    "graph_cut": submodular.graph_cut,
    "log_det": submodular.log_det,
}


def prompts(rows: int, tasks: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(tasks, size=rows)
    return random.standard_normal((tasks, 6))[labels] + random.standard_normal((rows, 6)), labels


def plain_budgets(gains: Sequence[float], sizes: Sequence[int], budget: int, splitter: str = "release") -> list[int]:
    weights = [1 + g + g * g / 2 for g in gains]
    shares = [budget * weight / sum(weights) for weight in weights]
    # A share that rounding has taken just below a whole number counts as it.
    budgets = [int(np.floor(share + 1e-9)) for share in shares]
    order = list(range(len(shares)))
    if splitter == "largest_remainder":
        order.sort(key=lambda task: round(shares[task] - budgets[task], 9), reverse=True)
    for task in order[: budget - sum(budgets)]:
        budgets[task] += 1
    over = sum(max(0, b - size) for b, size in zip(budgets, sizes, strict=True))
    budgets = [min(b, size) for b, size in zip(budgets, sizes, strict=True)]
    while over:
        for task, size in enumerate(sizes):
            if over and budgets[task] < size:
                budgets[task] += 1
                over -= 1
    return budgets


def plain(
    x: np.ndarray, tasks: Sequence, budget: int, num_tasks: int, first: str, second: str
) -> tuple[list[int], list[float], list[int]]:
    names = sorted(set(tasks))
    rows = [[row for row, task in enumerate(tasks) if task == name] for name in names]
    order = FUNCTIONS[first](np.array([x[members].mean(axis=0) for members in rows]), num_tasks)
    sizes = [len(rows[task]) for task in order.indices]
    indices: list[int] = []
    scores: list[float] = []
    driven_by: list[int] = []
    for task, share in zip(order.indices, plain_budgets(order.scores, sizes, budget), strict=True):
        picks = FUNCTIONS[second](x[rows[task]], share)
        indices += [rows[task][row] for row in picks.indices]
        scores += picks.scores.tolist()
        driven_by += [int(task)] * share
    return indices, scores, driven_by


@pytest.mark.parametrize(
    ("gains", "sizes", "release", "largest_remainder"),
    [
        ([1.8, 0.96], [99, 99], [7, 3], [6, 4]),
        ([1.8, 0.96, 0.72], [99, 99, 99], [6, 2, 2], [5, 3, 2]),
        ([1.8, 0.96], [4, 10], [4, 6], [4, 6]),
    ],
)
def test_hand_computed_budgets_of_case_t7(
    gains: list[float], sizes: list[int], release: list[int], largest_remainder: list[int]
) -> None:
    assert smart.task_budgets(gains, sizes, 10).tolist() == release
    assert smart.task_budgets(gains, sizes, 10, splitter="largest_remainder").tolist() == largest_remainder


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_budgets_equal_the_plain_rule_and_sum_up(data: st.DataObject) -> None:
    gains = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.25, -0.5, 40.0]), min_size=1, max_size=7))
    sizes = data.draw(st.lists(st.integers(0, 12), min_size=len(gains), max_size=len(gains)))
    budget = data.draw(st.integers(0, sum(sizes)))
    splitter = data.draw(st.sampled_from(["release", "largest_remainder"]))
    budgets = smart.task_budgets(np.array(gains), np.array(sizes), budget, splitter=splitter)
    assert budgets.dtype == np.int64
    assert budgets.tolist() == plain_budgets(gains, sizes, budget, splitter)
    assert budgets.sum() == budget
    assert (budgets <= sizes).all()


def test_equal_gains_share_exactly() -> None:
    # 49 / (49 + 49 + 49) * 9 is below 3 in floating point.
    for tasks in range(1, 60):
        assert smart.task_budgets([0.1] * tasks, [9] * tasks, 3 * tasks).tolist() == [3] * tasks


def test_a_large_excess_goes_round_at_once() -> None:
    assert smart.task_budgets([1e6, 0, 0, 0], [5, 10**9, 10, 10**9], 10**9).tolist() == [
        5,
        499_999_993,
        10,
        499_999_992,
    ]


def test_a_gain_below_minus_one_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="-3"):
        smart.task_budgets([1.0, -3.0], [5, 5], 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smart.task_budgets([1.0, -1.0], [5, 5], 4)


def test_no_tasks_and_no_budget_are_no_trouble() -> None:
    assert smart.task_budgets([], [], 0).tolist() == []
    assert smart.task_budgets([0.5], [3], 0).tolist() == [0]


@pytest.mark.parametrize(
    ("gains", "sizes", "budget", "splitter", "message"),
    [
        ([1.0, 2.0], [3, 4], 8, "release", "at most 7.*8"),
        ([], [], 1, "release", "at most 0"),
        ([1.0, 2.0], [3], 1, "release", r"\(2,\) and \(1,\)"),
        ([[1.0]], [[3]], 1, "release", "rank 1"),
        ([np.nan], [3], 1, "release", "nan"),
        (["a"], [3], 1, "release", "a"),
        ([1.0], [-3], 0, "release", "-3"),
        ([1.0], [3.0], 0, "release", "3.0"),
        ([1.0], [3], -1, "release", "-1"),
        ([1.0], [3], 1, "equal", "'equal'"),
    ],
)
def test_bad_budgets_name_what_is_wrong(gains: list, sizes: list, budget: int, splitter: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        smart.task_budgets(gains, sizes, budget, splitter=splitter)


@pytest.mark.parametrize("first", FUNCTIONS)
@pytest.mark.parametrize("second", FUNCTIONS)
def test_equals_the_plain_rule(first: str, second: str) -> None:
    x, labels = prompts(70, 5, seed=0)
    tasks = np.array(["delta", "bravo", "alpha", "echo", "charlie"])[labels]
    for budget, num_tasks in ((1, 5), (30, 5), (70, 5), (12, 2)):
        got = smart.select(x, tasks, budget, num_tasks=num_tasks, task_function=first, instance_function=second)
        indices, scores, driven_by = plain(x, tasks.tolist(), budget, num_tasks, first, second)
        assert got.indices.tolist() == indices
        assert got.scores.tolist() == scores
        assert got.driven_by is not None
        assert got.driven_by.tolist() == driven_by


def test_the_default_is_graph_cut_over_all_tasks_and_facility_location_within() -> None:
    x, tasks = prompts(50, 4, seed=1)
    got = smart.select(x, tasks, 20)
    assert got.indices.tolist() == plain(x, tasks.tolist(), 20, 4, "graph_cut", "facility_location")[0]


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 1, 2, -1])
    ),
    st.randoms(use_true_random=False),
)
def test_every_row_is_picked_at_most_once_and_the_budget_is_met(x: np.ndarray, random: object) -> None:
    tasks = [random.choice("xyz") for _ in x]  # type: ignore[attr-defined]
    for budget in (0, 1, len(x) // 2, len(x), len(x) + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = smart.select(x, tasks, budget)
        assert len(got) == min(budget, len(x))
        assert got.driven_by is not None
        assert [sorted(set(tasks))[task] for task in got.driven_by] == [tasks[row] for row in got.indices]


def test_a_task_is_the_mean_of_its_prompts_as_they_are() -> None:
    # Not normalised, task 0 points along the first axis, as task 1 does; normalised it would lie between task 1 and 2.
    x = np.array([[100.0, 0], [0, 1], [1, 0], [0, 1]])
    got = smart.select(x, [0, 0, 1, 2], 4, task_function="log_det")
    assert got.driven_by is not None
    assert list(dict.fromkeys(got.driven_by.tolist())) == [0, 2, 1]


@pytest.mark.parametrize("kept", [2, 4])
def test_the_gains_of_tasks_give_their_budgets(kept: int) -> None:
    x, tasks = prompts(40, 4, seed=3)
    gains = smart.task_gains(x, tasks, num_tasks=kept)
    sizes = [int((tasks == task).sum()) for task in gains]
    picked = tasks[smart.select(x, tasks, 10, num_tasks=kept).indices].tolist()
    shares = smart.task_budgets(list(gains.values()), sizes, 10)
    assert len(gains) == kept
    assert [picked.count(task) for task in gains] == shares.tolist()


def test_all_tasks_give_all_rows_above_the_pool_and_few_tasks_say_what_they_hold() -> None:
    x, tasks = prompts(40, 4, seed=2)
    assert sorted(smart.select(x, tasks, 99).indices.tolist()) == list(range(40))
    assert len(smart.select(x, tasks, 99, num_tasks=7)) == 40
    kept = set(smart.select(x, tasks, 10, num_tasks=2).driven_by.tolist())  # type: ignore[union-attr]
    held = int(np.isin(tasks, list(kept)).sum())
    assert len(smart.select(x, tasks, held, num_tasks=2)) == held
    for budget in (held + 1, 99):
        with pytest.raises(ValueError, match=f"at most {held}.*2 tasks.*got {budget}"):
            smart.select(x, tasks, budget, num_tasks=2)


@pytest.mark.filterwarnings("ignore:a gain of")
def test_lam_weighs_redundancy_in_both_steps() -> None:
    x, tasks = prompts(60, 3, seed=3)
    keywords = {"task_function": "graph_cut", "instance_function": "graph_cut"}
    picks = {lam: smart.select(x, tasks, 15, lam=lam, **keywords).indices.tolist() for lam in (0.0, 0.4, 5.0)}
    assert len({tuple(rows) for rows in picks.values()}) == 3


def test_zero_rows_and_zero_tasks_are_named_once() -> None:
    x, tasks = prompts(30, 3, seed=4)
    x[tasks == 1] = 0
    with pytest.warns(UserWarning) as caught:
        assert len(smart.select(x, np.array(list("abc"))[tasks], 30)) == 30
    zeros = np.flatnonzero(tasks == 1)
    assert [str(warning.message) for warning in caught] == [
        f"{zeros.size} rows of embeddings are zero and similar to nothing: {', '.join(map(str, zeros[:5]))}, ...",
        "1 means of tasks are zero and similar to nothing: b",
    ]
    assert {warning.filename for warning in caught} == {__file__}


def test_the_embeddings_may_be_memory_mapped_and_stay_as_they_were(tmp_path: Path) -> None:
    x, tasks = prompts(50, 4, seed=5)
    np.save(tmp_path / "x.npy", x.astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert (
        smart.select(mapped, tasks, 9).indices.tolist() == smart.select(x.astype(np.float16), tasks, 9).indices.tolist()
    )


def test_no_rows_and_no_budget_give_an_empty_selection() -> None:
    empty = smart.select(np.empty((0, 3)), [], 4)
    assert (len(empty), empty.driven_by is None) == (0, False)
    assert len(smart.select(np.ones((2, 3)), ["a", "b"], 0)) == 0


@pytest.mark.parametrize(
    ("x", "tasks", "keywords", "message"),
    [
        (np.zeros(3), [0, 0, 0], {}, "rank 2"),
        (np.zeros((3, 0)), [0, 0, 0], {}, "column"),
        (np.array([[1.0], [np.nan]]), [0, 0], {}, "nan at row 1, column 0"),
        (np.ones((3, 2)), [0, 0], {}, "3 rows, got 2"),
        (np.ones((3, 2)), [[0], [0], [0]], {}, "rank 1"),
        (np.ones((3, 2)), [0.0, np.nan, 1.0], {}, "NaN at position 1"),
        (np.ones((3, 2)), [None, "a", "b"], {}, "sort"),
        (np.ones((3, 2)), [0, 0, 0], {"budget": -2}, "-2"),
        (np.ones((3, 2)), [0, 0, 0], {"num_tasks": 0}, "num_tasks.*0"),
        (np.ones((3, 2)), [0, 0, 0], {"num_tasks": 1.0}, "num_tasks"),
        (np.ones((3, 2)), [0, 0, 0], {"lam": -1.0}, "lam"),
        (np.ones((3, 2)), [0, 0, 0], {"task_function": "cut"}, "task_function.*'cut'"),
        (np.ones((3, 2)), [0, 0, 0], {"instance_function": None}, "instance_function.*None"),
    ],
)
def test_bad_arguments_name_what_is_wrong(x: np.ndarray, tasks: list, keywords: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        smart.select(x, tasks, **{"budget": 1, **keywords})
