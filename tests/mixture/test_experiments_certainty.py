import numpy as np
import pytest

from instsel.mixture.experiments import clearly_above_zero, standard_error


def test_error_of_several_samples_is_that_of_their_mean():
    values = np.random.default_rng(0).normal(size=(7, 2))
    expected = values.std(axis=0, ddof=1) / np.sqrt(7)
    assert standard_error(values - values.mean(axis=0), np.ones((7, 2))) == pytest.approx(expected)


def test_single_sample_has_the_error_within_it():
    found = standard_error([[0.0, np.nan], [np.nan, 0.0]], [[0.3, 0.1], [0.2, np.nan]])
    assert found[0] == pytest.approx(0.3)
    assert np.isnan(found[1])


def test_few_samples_have_to_be_surer():
    found = clearly_above_zero([4.5, 4.6, 2.3, 2.4, 1.9, 2.1], np.ones(6), [3, 3, 10, 10, 1, 1], 2.0)
    assert found.tolist() == [False, True, False, True, False, True]


def test_noise_of_three_samples_is_taken_for_an_effect_as_rarely_as_two_normal_errors_say():
    values = np.random.default_rng(1).normal(size=(3, 20_000))
    mean = values.mean(axis=0)
    above = clearly_above_zero(mean, standard_error(values - mean, np.full_like(values, np.nan)), 3, 2.0)
    assert above.mean() == pytest.approx(0.0228, abs=0.004)


def test_mean_without_error_counts_where_it_is_above_zero():
    assert clearly_above_zero([0.1, -0.1, np.nan], [np.nan] * 3, 1, 2.0).tolist() == [True, False, False]
