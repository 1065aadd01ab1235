import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from instsel.selection import Selection, g2is
from instsel.selection.g2is import component_budgets, core_knowledge

T4 = np.array([[1, 0], [0.8, 0.6], [0.6, -0.8], [0, 1]])
T5 = np.array([[1, 0], [0.6, 0.8], [0.6, -0.8], [0.28, 0.96]])
FIRST_AXIS = np.array([[1.0, 0.0]])
# Off a right angle by less than a float32 shows: such rows are told apart all the same.
NEARLY = [-2.0, -1.0, 0.0, 1.0, 2.0, 1e-8, -1e-8, 1 + 1e-7]

Picks = tuple[list[int], list[float], list[int]]


def falling(values: np.ndarray) -> list[int]:
    return sorted(range(len(values)), key=lambda i: (-round(values[i], 11), i))


def naive(
    train: np.ndarray, components: np.ndarray, budgets: np.ndarray, delta: float, neighbors: int | None, fill: bool
) -> Picks:
    """The release's loop (methods 2.2) over explicit, sorted neighbour lists, in float64."""
    wide = train.astype(np.float64)
    rows = [i for i in range(len(wide)) if wide[i].any()]
    x = {i: wide[i] / np.abs(wide[i]).max() for i in rows}
    x = {i: x[i] / np.linalg.norm(x[i]) for i in rows}
    lists = {
        i: [others[j] for j in falling(np.array([x[i] @ x[o] for o in others]))][:neighbors]
        for i in rows
        for others in [[o for o in rows if o != i]]
    }
    picks: list[tuple[int, float, int]] = []
    taken: set[int] = set()
    left = budgets.tolist()
    for number, component in enumerate(components):
        similar = [rows[j] for j in falling(np.array([x[i] @ component for i in rows]))]
        chosen: list[int] = []

        def may_follow(row: int, chosen: list[int] = chosen, component: np.ndarray = component) -> bool:
            if row in taken or any(x[row] @ x[member] < -1e-12 for member in chosen):
                return False
            old = sum(x[member] for member in chosen)
            new = old + x[row]
            now, before = (abs(total @ component) / np.linalg.norm(total) for total in (new, old))
            return now >= delta * before - 1e-12

        while left[number]:
            if not chosen:
                row = next(i for i in similar if i not in taken)
                score = x[row] @ component
            elif (local := next(filter(may_follow, lists[chosen[-1]]), None)) is not None:
                row, score = local, x[local] @ x[chosen[-1]]
            elif (anchored := next(filter(may_follow, similar), None)) is not None:
                row, score = anchored, x[anchored] @ component
            else:
                break
            chosen.append(row)
            taken.add(row)
            picks.append((row, score, number))
            left[number] -= 1
    for number, component in enumerate(components if fill else []):
        similar = [rows[j] for j in falling(np.array([x[i] @ component for i in rows])) if rows[j] not in taken]
        for row in similar[: left[number]]:
            taken.add(row)
            picks.append((row, x[row] @ component, number))
    return [row for row, _, _ in picks], [score for _, score, _ in picks], [number for _, _, number in picks]


def quiet(train: np.ndarray, validation: np.ndarray, budget: int, **options: object) -> Selection:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return g2is.select(train, validation, budget, **options)


def assert_equal_to_naive(
    train: np.ndarray, validation: np.ndarray, budget: int, *, delta: float, neighbors: int | None, fill: bool,
    memory_bytes: int,
) -> None:  # fmt: skip
    got = quiet(
        train, validation, budget, delta=delta, neighbors=neighbors, fill="similarity" if fill else None,
        memory_bytes=memory_bytes,
    )  # fmt: skip
    components, shares = core_knowledge(validation[validation.any(axis=1)])
    budgets = component_budgets(shares, min(budget, int(train.any(axis=1).sum())))
    indices, scores, driven_by = naive(train, components, budgets, delta, neighbors, fill)
    assert (got.indices.tolist(), got.driven_by.tolist()) == (indices, driven_by)
    np.testing.assert_allclose(got.scores, scores, rtol=0, atol=1e-12)


def test_hand_computed_case_t4_leaves_out_what_turns_away_from_the_component() -> None:
    selection = g2is.select(T4, FIRST_AXIS, 3)
    assert selection.indices.tolist() == [0, 1, 2]
    np.testing.assert_allclose(selection.scores, [1.0, 0.8, 0.0], atol=1e-12)
    assert selection.driven_by.tolist() == [0, 0, 0]


def test_hand_computed_case_t5_leaves_out_what_conflicts_though_it_is_more_similar() -> None:
    selection = g2is.select(T5, FIRST_AXIS, 3)
    assert selection.indices.tolist() == [0, 1, 3]
    np.testing.assert_allclose(selection.scores, [1.0, 0.6, 0.936], atol=1e-12)


def test_hand_computed_case_t6_gives_equal_remainders_to_the_later_component() -> None:
    assert component_budgets(np.array([0.55, 0.25, 0.20]), 10).tolist() == [5, 3, 2]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(0, 1000))
def test_budgets_sum_to_the_total_and_differ_from_the_shares_by_less_than_a_row(parts: list[int], total: int) -> None:
    shares = np.array(parts) / sum(parts)
    budgets = component_budgets(shares, total)
    assert budgets.sum() == total
    assert (np.abs(budgets - shares * total) < 1).all()


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_equals_the_naive_walk_with_ties_duplicates_and_right_angles(data: st.DataObject) -> None:
    d = data.draw(st.integers(1, 3))
    n = data.draw(st.integers(1, 12))
    train = data.draw(hnp.arrays(np.float64, (n, d), elements=st.sampled_from(NEARLY)))
    validation = data.draw(hnp.arrays(np.float64, (data.draw(st.integers(1, 4)), d), elements=st.integers(-3, 3)))
    validation[0] = 1
    scales = data.draw(hnp.arrays(np.float64, (n, 1), elements=st.sampled_from([1e-200, 0.3, 1.0, 3.0, 1e200])))
    assert_equal_to_naive(
        train * scales,
        validation,
        data.draw(st.sampled_from([0, 1, n // 2, n, n + 1])),
        delta=data.draw(st.sampled_from([0.0, 0.8, 1.0])),
        neighbors=data.draw(st.sampled_from([None, 1, 2, 5])),
        fill=data.draw(st.booleans()),
        memory_bytes=data.draw(st.sampled_from([0, 2**33])),
    )


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 60),
    dimensions=st.integers(1, 40),
    shared=st.sampled_from([0.0, 0.3, 2.0]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    delta=st.sampled_from([0.0, 0.5, 0.8, 0.99]),
    neighbors=st.sampled_from([None, 1, 4, 20, 100]),
    duplicates=st.booleans(),
    fill=st.booleans(),
    memory_bytes=st.sampled_from([0, 2**33]),
)
def test_equals_the_naive_walk_on_random_pools(
    seed: int, rows: int, dimensions: int, shared: float, dtype: type, delta: float, neighbors: int | None,
    duplicates: bool, fill: bool, memory_bytes: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    train = (rng.standard_normal((rows, dimensions)) + shared).astype(dtype)
    if duplicates:
        train = train[rng.integers(rows // 2 + 1, size=rows)] * rng.choice([1, 2, 0.5], (rows, 1)).astype(dtype)
    validation = rng.standard_normal((7, dimensions)) + shared
    for budget in (0, 1, rows // 3, rows, rows + 1):
        assert_equal_to_naive(
            train, validation, budget, delta=delta, neighbors=neighbors, fill=fill, memory_bytes=memory_bytes
        )


def test_equal_rows_tie_wherever_they_lie_in_a_pool_of_several_blocks() -> None:
    rng = np.random.default_rng(0)
    train = rng.standard_normal((20_011, 513)).astype(np.float32)
    equal = [3, 1_000, 9_999, 20_010]
    train[equal] = train[equal[0]]
    validation = train[[equal[0]]]
    for memory_bytes in (0, 2**33):
        selection = g2is.select(train, validation, 4, memory_bytes=memory_bytes)
        assert selection.indices.tolist() == equal


def test_conflicts_too_small_for_float32_are_seen() -> None:
    train = np.array([[1.0, 1.0], [1.0, -1 - 1e-8], [1.0, -1 + 1e-8]])
    assert quiet(train, np.ones((1, 2)), 3, delta=0.5).indices.tolist() == [0, 2]


def test_a_pool_of_nothing_but_one_row_over_and_over_is_taken_in_order() -> None:
    train = np.full((3000, 7), 0.1, dtype=np.float16)
    assert g2is.select(train, np.ones((2, 7)), 50).indices.tolist() == list(range(50))


def test_a_memory_mapped_pool_gives_the_same_and_stays_as_it_was(tmp_path: Path) -> None:
    train = np.random.default_rng(1).standard_normal((200, 30)).astype(np.float16) + np.float16(0.5)
    validation = np.random.default_rng(2).standard_normal((9, 30)) + 0.5
    np.save(tmp_path / "train.npy", train)
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    whole, blocks = (quiet(mapped, validation, 40, memory_bytes=size) for size in (2**33, 0))
    assert whole.indices.tolist() == blocks.indices.tolist() == quiet(train, validation, 40).indices.tolist()
    assert np.array_equal(np.load(tmp_path / "train.npy"), train)


def test_a_walk_that_ends_early_says_what_each_component_left() -> None:
    train = np.array([[1.0, 0.0], [-1.0, 0.1], [-1.0, -0.1]])
    with pytest.warns(UserWarning, match="1 of 3 rows by its walks .component 0 left 2 of 3.: fewer rows"):
        selection = g2is.select(train, FIRST_AXIS, 3)
    assert selection.indices.tolist() == [0]


def test_what_the_walks_left_is_filled_by_similarity_to_the_component() -> None:
    train = np.array([[-1.0, -3.0], [1.0, 0.0], [-1.0, 0.1], [-1.0, 1.0]])
    with pytest.warns(UserWarning, match="component 0 left 2 of 3.: filled by similarity"):
        selection = g2is.select(train, FIRST_AXIS, 3, fill="similarity")
    assert selection.indices.tolist() == [1, 0, 3]
    np.testing.assert_allclose(selection.scores, [1, -1 / np.sqrt(10), -1 / np.sqrt(2)])


def test_a_truncated_graph_falls_back_to_the_row_most_similar_to_the_component() -> None:
    train = np.array([[1.0, 0.0], [0.95, 0.3], [0.9, 0.4], [0.9, -0.3]])
    assert g2is.select(train, FIRST_AXIS, 4, delta=0.5).indices.tolist() == [0, 1, 2, 3]
    # The row nearest to row 2 is 1, which is taken.
    truncated = g2is.select(train, FIRST_AXIS, 4, delta=0.5, neighbors=1)
    assert truncated.indices.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(truncated.scores[3], 0.9 / np.hypot(0.9, 0.3))


def test_zero_rows_are_left_out_and_named() -> None:
    train = np.insert(T5, [0, 2, 4], 0.0, axis=0)
    with pytest.warns(UserWarning, match="3 rows of train are zero and are left out: 0, 3, 6"):
        selection = g2is.select(train, FIRST_AXIS, 3)
    assert selection.indices.tolist() == [1, 2, 5]
    with pytest.warns(UserWarning, match="7 rows of train are zero and are left out: 0, 1, 2, 3, 4, ..."):
        assert len(g2is.select(np.zeros((7, 2)), FIRST_AXIS, 3)) == 0
    with pytest.warns(UserWarning, match="1 rows of validation are zero and are left out: 0"):
        assert g2is.select(T5, np.insert(FIRST_AXIS, 0, 0.0, axis=0), 3).indices.tolist() == [0, 1, 3]


def test_budget_nothing_and_no_rows_give_an_empty_selection() -> None:
    assert len(g2is.select(T4, FIRST_AXIS, 0)) == 0
    assert isinstance(g2is.select(np.empty((0, 2)), FIRST_AXIS, 5), Selection)


@pytest.mark.parametrize(
    ("train", "validation", "budget", "options", "message"),
    [
        (T4[0], FIRST_AXIS, 1, {}, "train must have rank 2"),
        (T4, FIRST_AXIS[0], 1, {}, "validation must have rank 2"),
        (T4, np.ones((1, 3)), 1, {}, r"\(4, 2\) and \(1, 3\)"),
        (T4[:, :0], FIRST_AXIS[:, :0], 1, {}, "at least one column"),
        (T4 * [[1], [1], [np.nan], [1]], FIRST_AXIS, 1, {}, "train must be finite.*row 2"),
        (T4, np.array([[np.inf, 0.0]]), 1, {}, "validation must be finite.*row 0"),
        (T4.astype(complex), FIRST_AXIS, 1, {}, "complex128"),
        (T4, FIRST_AXIS[:0], 1, {}, "validation must have a row"),
        (T4, FIRST_AXIS, -1, {}, "-1"),
        (T4, FIRST_AXIS, 1, {"delta": 1.5}, "delta .* 1.5"),
        (T4, FIRST_AXIS, 1, {"delta": np.nan}, "delta .* nan"),
        (T4, FIRST_AXIS, 1, {"explained_variance": 0.0}, "explained_variance .* 0.0"),
        (T4, FIRST_AXIS, 1, {"explained_variance": np.nan}, "explained_variance .* nan"),
        (T4, FIRST_AXIS, 1, {"sign": "up"}, "sign .* 'up'"),
        (T4, FIRST_AXIS, 1, {"neighbors": 0}, "neighbors .* 0"),
        (T4, FIRST_AXIS, 1, {"fill": "random"}, "fill .* 'random'"),
        (T4, FIRST_AXIS, 1, {"memory_bytes": -1}, "memory_bytes .* -1"),
    ],
)
def test_bad_arguments_name_what_is_wrong(
    train: np.ndarray, validation: np.ndarray, budget: int, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        g2is.select(train, validation, budget, **options)
