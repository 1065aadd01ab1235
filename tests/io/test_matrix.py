"""Blocks of rows become one matrix, in memory or mapped."""

import numpy as np
import pytest

from instsel.io import matrix as matrices
from instsel.io.matrix import moments, stack


@pytest.mark.parametrize("bound", [0, 2**30])
def test_blocks_are_put_one_below_the_other(bound, monkeypatch):
    monkeypatch.setattr(matrices, "MAPPED_BYTES", bound)
    blocks = [np.arange(6, dtype=np.float16).reshape(2, 3), np.empty((0, 3)), np.ones((1, 3))]
    whole = stack(iter(blocks), 3, 3)
    assert isinstance(whole, np.memmap) == (bound == 0)
    assert whole.dtype == np.float32 and not whole.flags.writeable
    np.testing.assert_array_equal(whole, np.concatenate(blocks))


def test_moments_are_those_of_the_columns_and_never_zero():
    values = np.random.default_rng(0).normal(3, 2, size=(50_000, 90)).astype(np.float32)
    values[:, 4] = 7
    mean, deviation = moments(values)
    np.testing.assert_allclose(mean, values.mean(axis=0, dtype=np.float64))
    assert deviation[4] == 1
    np.testing.assert_allclose(np.delete(deviation, 4), np.delete(values.std(axis=0, dtype=np.float64), 4))
