"""Inner products of the features are the attribution; means of subtasks give the rule of LESS's text."""

import numpy as np
import pytest

from instsel.attribution.kernel import side_by_side, subtask_means, whitening
from instsel.attribution.scores import attribute, second_moment
from instsel.selection import less


@pytest.mark.parametrize("damping", [None, 0.01, 0.1, 3.0])
@pytest.mark.parametrize("checkpoints", [1, 3])
def test_inner_products_are_the_attribution(damping, checkpoints):
    random = np.random.default_rng(0)
    train = [random.normal(size=(30, 12)).astype(np.float16) for _ in range(checkpoints)]
    validation = [random.normal(size=(5, 12)) for _ in range(checkpoints)]
    weights = random.random(checkpoints) + 0.1
    factors = None
    if damping is not None:
        factors = [whitening(second_moment(rows) / 30, damping) for rows in train]
    found = side_by_side(train, weights, factors) @ side_by_side(validation, weights, factors).T
    expected = attribute(train, validation, weights, damping=damping)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_features_of_a_block_of_rows_are_those_of_all():
    rows = [np.random.default_rng(c).normal(size=(9, 6)) for c in range(2)]
    factors = [whitening(second_moment(part) / 9, 0.1) for part in rows]
    whole = side_by_side(rows, [2.0, 1.0], factors)
    np.testing.assert_allclose(side_by_side([part[3:5] for part in rows], [2.0, 1.0], factors), whole[3:5], rtol=1e-6)
    assert whole.dtype == np.float32
    assert whole.shape == (9, 12)


def test_mean_of_cosines_and_cosine_of_the_mean_differ_with_the_length_of_gradients():
    train, validation = [np.array([[0.0, 1.0]])], np.array([[10.0, 0.0], [0.0, 1.0]])
    subtasks = ["s", "s"]
    cosines = less.select(attribute(train, [validation], [1.0]), 1, subtasks=subtasks)
    assert cosines.scores[0] == pytest.approx(0.5)
    means, labels = subtask_means(validation, subtasks)
    np.testing.assert_array_equal(means, [[5, 0.5]])
    found = less.select(attribute(train, [means], [1.0]), 1, subtasks=labels)
    assert found.scores[0] == pytest.approx(0.0995, abs=1e-4)


def test_means_come_in_the_order_of_their_labels():
    means, labels = subtask_means(np.array([[1.0], [2.0], [4.0]]), ["b", "a", "b"])
    assert labels.tolist() == ["a", "b"]
    assert means.tolist() == [[2.0], [2.5]]
    with pytest.raises(ValueError, match="one label for each of 3 rows, got 1"):
        subtask_means(np.ones((3, 1)), ["a"])


@pytest.mark.parametrize("damping", [0.0, -1.0, float("nan")])
def test_a_damping_that_is_none_is_refused(damping):
    with pytest.raises(ValueError, match="damping must be a number above 0"):
        whitening(np.eye(2), damping)
