from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from instsel.selection import less

T11 = np.array([[0.9, 0.1, 0.4, 0.4], [0.0, 0.2, 0.7, 0.5]])


def plain(attribution: np.ndarray, budget: int, subtasks: Sequence) -> tuple[list[int], list[float], list[int]]:
    labels = sorted(set(subtasks))
    scored = []
    for row, values in enumerate(attribution.astype(np.float64)):
        means = [np.mean([v for v, s in zip(values, subtasks, strict=True) if s == label]) for label in labels]
        scored.append((-max(means), row, means.index(max(means))))
    scored.sort()
    picks = scored[:budget]
    return [row for _, row, _ in picks], [-score for score, _, _ in picks], [winner for _, _, winner in picks]


def test_hand_computed_case_t11() -> None:
    selection = less.select(T11, 2, subtasks=["a", "a", "b", "b"])
    assert selection.indices.tolist() == [1, 0]
    np.testing.assert_allclose(selection.scores, [0.6, 0.5])
    assert selection.driven_by.tolist() == [1, 0]


def test_hand_computed_case_t12_averages_the_cosines() -> None:
    cosines = np.array([[0.0, 1.0]])
    assert less.select(cosines, 1, subtasks=[0, 0]).scores.tolist() == [0.5]


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_equals_the_plain_rule(data: st.DataObject) -> None:
    # Eighths add up without rounding, so that ties are ties in whatever order one adds.
    eighths = st.integers(-16, 16).map(lambda i: i / 8)
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
    attribution = data.draw(hnp.arrays(data.draw(st.sampled_from([np.float32, np.float64])), shape, elements=eighths))
    subtasks = data.draw(st.lists(st.sampled_from("cab"), min_size=shape[1], max_size=shape[1]))
    for budget in (0, 1, len(attribution), len(attribution) + 1):
        got = less.select(attribution, budget, subtasks=subtasks)
        assert (got.indices.tolist(), got.scores.tolist(), got.driven_by.tolist()) == plain(
            attribution, budget, subtasks
        )


def test_half_precision_is_averaged_in_float64() -> None:
    attribution = np.array([[2048.0, 1.0], [2048.0, 2.0]], dtype=np.float16)
    assert less.select(attribution, 2, subtasks=[0, 0]).scores.tolist() == [1025.0, 1024.5]


def test_pools_of_more_than_one_block_keep_their_rows_apart() -> None:
    attribution = np.random.default_rng(0).standard_normal((50_000, 100)).astype(np.float32)
    subtasks = np.arange(100) % 7
    means = np.stack([attribution[:, subtasks == s].astype(np.float64).mean(axis=1) for s in range(7)], axis=1)
    selection = less.select(attribution, 500, subtasks=subtasks)
    assert selection.indices.tolist() == np.argsort(-means.max(axis=1), kind="stable")[:500].tolist()
    assert selection.driven_by.tolist() == means.argmax(axis=1)[selection.indices].tolist()


@pytest.mark.parametrize(
    ("attribution", "budget", "subtasks", "message"),
    [
        (np.zeros(4), 1, [0], "rank 2"),
        (np.zeros((2, 0)), 1, [], "column"),
        (T11, 1, [0, 0, 1], "4 columns"),
        (T11, 1, [[0], [0], [1], [1]], "rank 1"),
        (T11, 1, [0.0, 0.0, np.nan, 1.0], "position 2"),
        (T11, 1, [None, "a", "b", "c"], "sort"),
        (np.full((1, 1), np.nan), 1, [0], "row 0, column 0"),
        (T11, -3, [0, 0, 1, 1], "-3"),
    ],
)
def test_bad_arguments_name_what_is_wrong(
    attribution: np.ndarray, budget: int, subtasks: Sequence, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        less.select(attribution, budget, subtasks=subtasks)
