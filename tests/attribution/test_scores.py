from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.arrays import row_blocks
from instsel.attribution import scores as attribution
from instsel.attribution.scores import attribute


def plain(
    train: Sequence[np.ndarray], validation: Sequence[np.ndarray], weights: Sequence[float], damping: float | None
) -> np.ndarray:
    """The definition, one pair of rows at a time, in float64."""
    total = np.zeros((len(train[0]), len(validation[0])))
    for x, y, weight in zip(train, validation, weights, strict=True):
        u = [row / np.linalg.norm(row) for row in x.astype(np.float64)]
        v = [row / np.linalg.norm(row) for row in y.astype(np.float64)]
        d = x.shape[1]
        inverse = np.eye(d)
        if damping is not None:
            fisher = sum(np.outer(row, row) for row in u) / len(u)
            inverse = np.linalg.inv(fisher + damping * np.trace(fisher) / d * np.eye(d))
        for i, row in enumerate(u):
            for j, other in enumerate(v):
                total[i, j] += weight / sum(weights) * (row @ inverse @ other)
    return total


def with_cosines(cosines: list[float]) -> np.ndarray:
    """Rows (n, 2) whose cosines with (1, 0) are the ones given."""
    return np.array([[c, np.sqrt(1 - c**2)] for c in cosines])


def test_hand_computed_case_t12_mean_of_cosines() -> None:
    got = attribute([np.array([[0.0, 1.0]])], [np.array([[10.0, 0.0], [0.0, 1.0]])], [1.0])
    assert got.mean() == 0.5


def test_hand_computed_case_t13_weights_of_checkpoints() -> None:
    train = [with_cosines([0.3, 0.0]), with_cosines([0.0, 0.5])]
    got = attribute(train, [np.array([[1.0, 0.0]])] * 2, [2.0, 1.0])
    np.testing.assert_allclose(got, [[0.2], [0.1667]], atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 12),
    validation_rows=st.integers(1, 5),
    dimensions=st.integers(1, 9),
    weights=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=3),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    damping=st.sampled_from([None, 0.01, 0.1, 3.0]),
)
def test_equals_the_definition(
    seed: int,
    rows: int,
    validation_rows: int,
    dimensions: int,
    weights: list[float],
    dtype: type,
    damping: float | None,
) -> None:
    rng = np.random.default_rng(seed)
    train = [rng.standard_normal((rows, dimensions)).astype(dtype) for _ in weights]
    validation = [rng.standard_normal((validation_rows, dimensions)).astype(dtype) for _ in weights]
    got = attribute(train, validation, weights, damping=damping)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, plain(train, validation, weights, damping), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "scales"),
    [(np.float64, [1e-300, 1e300]), (np.float32, [1e-30, 1e30]), (np.float16, [1e-5, 1e3])],
)
def test_the_scale_of_rows_does_not_matter(dtype: type, scales: list[float]) -> None:
    train = np.random.default_rng(0).integers(-9, 10, (6, 8)).astype(np.float64) * np.resize(scales, (6, 1))
    validation = np.random.default_rng(1).integers(-9, 10, (3, 8)).astype(np.float64) * np.resize(scales, (3, 1))
    got = attribute([train.astype(dtype)], [validation.astype(dtype)], [1e-5])
    expected = plain(
        [train / np.abs(train).max(axis=1, keepdims=True)], [validation / np.resize(scales, (3, 1))], [1], None
    )
    np.testing.assert_allclose(got, expected, atol=2e-2 if dtype == np.float16 else 1e-6)


def test_integer_features_are_real_numbers_too() -> None:
    assert attribute([np.array([[3, 4]])], [np.array([[1, 0]])], [1]).tolist() == [[pytest.approx(0.6)]]


def test_damping_takes_a_direction_that_every_row_shares_out_of_the_ranking() -> None:
    rng = np.random.default_rng(0)
    shared = np.zeros(16)
    shared[0] = 8.0
    skill = np.zeros(16)
    skill[1] = 1.0
    train = rng.standard_normal((200, 16)) * 0.3 + shared
    train[7] += 4 * skill
    train[11] += 4 * shared  # more of what all have, none of the skill
    validation = (shared + skill)[None]
    plainly = attribute([train], [validation], [1.0])[:, 0]
    damped = attribute([train], [validation], [1.0], damping=0.1)[:, 0]
    assert plainly[11] > plainly[7]
    assert damped.argmax() == 7


def test_memory_mapped_shards_give_what_the_whole_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    train = [rng.standard_normal((30, 12)).astype(np.float16) for _ in range(2)]
    validation = [rng.standard_normal((4, 12)).astype(np.float16) for _ in range(2)]
    weights = [3e-4, 1e-4]
    mapped = []
    for c, array in enumerate(train):
        np.save(tmp_path / f"{c}.npy", array)
        mapped.append(np.load(tmp_path / f"{c}.npy", mmap_mode="r"))
    shards = [slice(0, 9), slice(9, 9), slice(9, 30)]
    for damping in (None, 0.1):
        directions = [attribution.unit_rows(v) for v in validation]
        if damping is not None:
            sums = [sum(attribution.second_moment(array[shard]) for shard in shards) for array in mapped]
            directions = [
                attribution.precondition(v, total / 30, damping) for v, total in zip(directions, sums, strict=True)
            ]
        parts = [attribution.score_block([array[shard] for array in mapped], directions, weights) for shard in shards]
        np.testing.assert_allclose(
            np.concatenate(parts), attribute(train, validation, weights, damping=damping), rtol=1e-5, atol=1e-5
        )


def test_rows_of_several_blocks_keep_their_places() -> None:
    train = np.random.default_rng(6).standard_normal((20_000, 1024)).astype(np.float16)
    assert len(list(row_blocks(20_000, 4 * 1024))) > 2
    train[:, 0] = 0
    train[12_345] = 0
    train[12_345, 0] = 1
    expected = np.zeros(20_000)
    expected[12_345] = 1
    assert attribute([train], [np.eye(1, 1024)], [1.0])[:, 0].tolist() == expected.tolist()
    train[17_000] = 0
    with pytest.raises(ValueError, match="row 17000"):
        attribute([train], [np.eye(1, 1024)], [1.0])


def test_second_moments_are_precise_enough_for_a_small_damping() -> None:
    rng = np.random.default_rng(7)
    train = (rng.standard_normal((300, 256)) + 3 * rng.standard_normal(256)).astype(np.float16)
    validation = rng.standard_normal((3, 256))
    got = attribute([train], [validation], [1.0], damping=1e-3)
    expected = plain([train], [validation], [1.0], 1e-3)
    assert np.abs(got - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("strip", [slice(0, 5), slice(5, 9), slice(9, 12), slice(None)])
def test_a_strip_of_second_moments_begins_at_the_diagonal(strip: slice) -> None:
    train = np.random.default_rng(8).standard_normal((30, 12)).astype(np.float16)
    whole = attribution.second_moment(train)
    np.testing.assert_allclose(attribution.second_moment(train, strip=strip), whole[strip, strip.start :], rtol=1e-5)


X = np.ones((3, 4))
V = np.ones((2, 4))


@pytest.mark.parametrize(
    ("train", "validation", "weights", "damping", "message"),
    [
        ([X], [V, V], [1.0], None, "1, 2 and 1"),
        ([], [], [], None, "0, 0 and 0"),
        ([X], [V], 1.0, None, "one number per checkpoint"),
        ([X], [V], [[1.0]], None, "one number per checkpoint"),
        ([X[0]], [V], [1.0], None, r"train, checkpoint 0 must have rank 2.*\(4,\)"),
        ([X], [V[0]], [1.0], None, "validation, checkpoint 0 must have rank 2"),
        ([X, X[:2]], [V, V], [1.0, 1.0], None, r"train, checkpoint 1: expected shape \(3, 4\), got \(2, 4\)"),
        ([X, X], [V, V[:1]], [1.0, 1.0], None, "validation, checkpoint 1: expected 2 rows, got 1"),
        ([X], [V[:0]], [1.0], None, "validation, checkpoint 0: expected at least one rows"),
        ([X[:, :3]], [V], [1.0], None, r"expected shape \(3, 4\), got \(3, 3\)"),
        ([X[:, :0]], [V[:, :0]], [1.0], None, "at least one column"),
        ([X.astype(complex)], [V], [1.0], None, "dtype complex128"),
        ([X, X], [V, V], [1.0, -1.0], None, "not negative"),
        ([X, X], [V, V], [0.0, 0.0], None, "not all zero"),
        ([X, X], [V, V], [np.nan, 1.0], None, "finite"),
        ([X * [[1], [0], [1]]], [V], [1.0], None, "train, checkpoint 0, row 1: .*zero"),
        ([X], [V * [[1], [np.inf]]], [1.0], None, "validation, checkpoint 0, row 1: .*infinity"),
        ([X * [[1], [1], [np.nan]]], [V], [1.0], 0.1, "train, checkpoint 0, row 2: .*NaN"),
        ([X], [V], [1.0], 0.0, "damping .* 0.0"),
        ([X], [V], [1.0], -0.1, "damping .* -0.1"),
        ([X], [V], [1.0], np.nan, "damping .* nan"),
        ([X[:0]], [V], [1.0], 0.1, "at least one row"),
    ],
)
def test_bad_arguments_name_what_is_wrong(
    train: list[np.ndarray], validation: list[np.ndarray], weights: list[float], damping: float | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        attribute(train, validation, weights, damping=damping)


def test_a_pool_of_no_rows_gives_no_scores() -> None:
    assert attribute([X[:0]], [V], [1.0]).shape == (0, 2)


def test_a_fisher_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        attribution.precondition(attribution.unit_rows(V), np.eye(3), 0.1)
