import numpy as np
import pytest

from instsel.pipeline.category_gradients import group_means


def test_folds_put_together_have_the_mean_of_their_rows():
    random = np.random.default_rng(0)
    rows = random.integers(1, 5, size=(8, 3)).astype(float)
    sums = random.normal(size=(8, 3, 2, 4))
    found = group_means(sums, rows, 3)
    assert found.shape == (3, 3, 2, 4)
    for group in range(3):
        folds = list(range(group, 8, 3))
        for category in range(3):
            expected = sums[folds, category].sum(axis=0) / rows[folds, category].sum()
            assert found[group, category] == pytest.approx(expected)


def test_bug_empty_folds_shrank_the_mean_of_a_small_category():
    sums, rows = np.zeros((8, 2, 1, 1)), np.ones((8, 2))
    sums[:, 0] = 1.0
    # The second category fills two folds only.
    sums[:2, 1], rows[2:, 1] = 1.0, 0
    assert group_means(sums, rows, 2).ravel() == pytest.approx(1.0)
