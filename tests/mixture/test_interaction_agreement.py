import numpy as np
import pytest

from instsel.mixture.interaction import agreement


def _gamma(seed=0, size=8):
    gamma = np.random.default_rng(seed).normal(size=(size, size))
    np.fill_diagonal(gamma, 1)
    return gamma


def test_any_rising_transform_agrees_wholly():
    found = agreement(_gamma(), np.exp(_gamma()))
    assert (found.correlation, found.within) == (pytest.approx(1), pytest.approx(1))
    assert found.low == pytest.approx(1)
    assert found.entries == 56


def test_scale_of_columns_moves_the_whole_but_not_the_correlation_within():
    scaled = _gamma() * np.logspace(-2, 2, 8)
    found = agreement(_gamma(), scaled)
    assert found.within == pytest.approx(1)
    assert found.correlation < 1


def test_diagonal_and_unknown_entries_do_not_count():
    one, other = _gamma(), _gamma()
    np.fill_diagonal(other, -100)
    other[2, 5] = np.nan
    found = agreement(one, other)
    assert found.correlation == pytest.approx(1)
    assert found.entries == 55


def test_interval_of_unrelated_estimates_holds_zero_and_is_the_same_again():
    found = agreement(_gamma(1), _gamma(2))
    assert found.low < 0 < found.high
    assert agreement(_gamma(1), _gamma(2)) == found


def test_too_few_entries_have_no_correlation():
    found = agreement(np.eye(2), np.eye(2))
    assert np.isnan(found.correlation)
    assert np.isnan(found.low)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="expected"):
        agreement(np.eye(2), np.eye(3))
