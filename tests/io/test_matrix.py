"""Blocks of rows become one matrix, in memory or mapped."""

import numpy as np
import pytest

from instsel.io import matrix as matrices
from instsel.io.matrix import stack


@pytest.mark.parametrize("bound", [0, 2**30])
def test_blocks_are_put_one_below_the_other(bound, monkeypatch):
    monkeypatch.setattr(matrices, "MAPPED_BYTES", bound)
    blocks = [np.arange(6, dtype=np.float16).reshape(2, 3), np.empty((0, 3)), np.ones((1, 3))]
    whole = stack(iter(blocks), 3, 3)
    assert isinstance(whole, np.memmap) == (bound == 0)
    assert whole.dtype == np.float32
    assert not whole.flags.writeable
    np.testing.assert_array_equal(whole, np.concatenate(blocks))
