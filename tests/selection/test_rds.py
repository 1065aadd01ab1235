from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.arrays import unit_rows
from instsel.selection import rds


def plain(train: np.ndarray, validation: np.ndarray, budget: int) -> tuple[list[int], list[float]]:
    cosines = unit_rows(validation).astype(np.float64) @ unit_rows(train).astype(np.float64).T
    left = cosines.astype(np.float32)
    rows: list[int] = []
    scores: list[float] = []
    while len(rows) < min(budget, len(train)):
        caller = len(rows) % len(validation)
        row = int(np.argmax(left[caller]))
        rows.append(row)
        scores.append(float(left[caller, row]))
        left[:, row] = -np.inf
    return rows, scores


def assert_equal_to_plain(train: np.ndarray, validation: np.ndarray, budget: int) -> None:
    got = rds.select(train, validation, budget)
    rows, scores = plain(train, validation, budget)
    assert got.indices.tolist() == rows
    assert got.scores.tolist() == scores
    assert got.driven_by is not None
    assert got.driven_by.tolist() == [turn % len(validation) for turn in range(len(rows))]


def test_validation_rows_take_turns() -> None:
    train = np.array([[1.0, 0.0], [4.0, 3.0], [0.0, 1.0], [-1.0, 0.0]])
    selection = rds.select(train, np.array([[2.0, 0.0], [3.0, 0.0]]), 3)
    # Both want row 0; the second takes what is left, and the first then what is left of that.
    assert selection.indices.tolist() == [0, 1, 2]
    assert selection.driven_by.tolist() == [0, 1, 0]
    np.testing.assert_allclose(selection.scores, [1.0, 0.8, 0.0], atol=1e-7)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 40),
    callers=st.integers(1, 6),
    width=st.integers(1, 5),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
    dtype=st.sampled_from([np.float32, np.float64]),
    distinct=st.integers(1, 40),
)
def test_equals_the_plain_loop(
    seed: int, rows: int, callers: int, width: int, scale: float, dtype: type, distinct: int
) -> None:
    rng = np.random.default_rng(seed)
    # Few different rows: many exact ties, which the lowest row has to win.
    train = (rng.standard_normal((distinct, width)) * scale).astype(dtype)[rng.integers(distinct, size=rows)]
    validation = rng.standard_normal((callers, width)).astype(dtype)
    for budget in (0, 1, rows // 2, rows, rows + 1):
        assert_equal_to_plain(train, validation, budget)


@pytest.mark.parametrize("rank_bytes", [1, 24 * 3 * 4])
def test_rankings_that_do_not_fit_are_made_again(rank_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    train, validation = rng.integers(-2, 3, (60, 4)) + 0.5, rng.standard_normal((3, 4))
    monkeypatch.setattr(rds, "_RANKING_BYTES", rank_bytes)
    for budget in (1, 30, 60):
        assert_equal_to_plain(train, validation, budget)


def test_pools_of_more_than_one_block_keep_their_rows_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    train = rng.standard_normal((30_000, 500)).astype(np.float16)
    # Equal rows of different blocks: the first has to win.
    train[20_000:] = train[:10_000]
    np.save(tmp_path / "train.npy", train)
    validation = rng.standard_normal((3, 500)).astype(np.float32)
    got = rds.select(np.load(tmp_path / "train.npy", mmap_mode="r"), validation, 3000)
    rows, scores = plain(train, validation, 3000)
    assert got.indices.tolist() == rows
    assert got.scores.tolist() == scores


def test_no_rows_give_an_empty_selection() -> None:
    assert len(rds.select(np.empty((0, 3)), np.ones((2, 3)), 5)) == 0


ONE = np.ones((1, 2))


@pytest.mark.parametrize(
    ("train", "validation", "budget", "message"),
    [
        (np.ones(3), ONE, 1, "train must have rank 2"),
        (ONE, np.ones(2), 1, "validation must have rank 2"),
        (ONE, np.ones((1, 3)), 1, "3 columns"),
        (ONE, np.empty((0, 2)), 1, "at least one row"),
        (np.array([[1.0, 1.0], [0.0, 0.0]]), ONE, 1, "train, row 1: .* zeros"),
        (np.array([[1.0, np.nan]]), ONE, 0, "train, row 0: .* NaN"),
        (ONE, np.array([[np.inf, 1.0]]), 1, "validation, row 0: .* infinity"),
        (ONE, ONE, -2, "-2"),
        (ONE, ONE, 1.0, "1.0"),
    ],
)
def test_bad_arguments_name_what_is_wrong(train: np.ndarray, validation: np.ndarray, budget: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rds.select(train, validation, budget)
