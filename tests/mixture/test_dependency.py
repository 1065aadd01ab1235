import numpy as np
import pytest

from instsel.mixture.dependency import cycles_of, dependencies, levels_of

STEP = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=float)


def _measured(noise=0.0, samples=4, seed=0):
    random = np.random.default_rng(seed)
    full = -2.0 + random.normal(scale=0.3, size=(samples, 3))
    lost = 0.5 * STEP + random.normal(scale=noise, size=(samples, 3, 3))
    return full, full[:, None, :] - lost * np.abs(full)[:, None, :]


def test_chain_has_a_level_each():
    found = dependencies(*_measured(noise=0.01))
    assert found.needs.tolist() == (STEP > 0).tolist()
    assert found.strength[0, 1] == pytest.approx(0.5, abs=0.05)
    assert found.levels.tolist() == [0, 1, 2]
    assert found.cycles == []


def test_what_noise_explains_is_no_dependence():
    found = dependencies(*_measured(noise=0.6))
    assert (found.error > 0.05).all()
    assert not dependencies(*_measured(noise=0.6), threshold=50).needs.any()


def test_helped_by_a_removal_is_no_dependence():
    full, without = _measured(noise=0.01)
    assert not dependencies(full, 2 * full[:, None, :] - without).needs.any()


def test_single_sample_needs_the_errors_over_items():
    full, without = _measured(samples=1)
    with pytest.raises(ValueError, match="a single base sample"):
        dependencies(full, without)
    sure = dependencies(full, without, errors=np.full((1, 3, 3), 0.01))
    assert sure.needs.tolist() == (STEP > 0).tolist()
    assert not dependencies(full, without, errors=np.full((1, 3, 3), 10.0)).needs.any()


def test_failed_runs_are_no_dependence():
    full, without = _measured(noise=0.01)
    without[:, 0] = np.nan
    without[0, 1] = np.nan
    assert dependencies(full, without).needs.tolist() == [[False] * 3, [False, False, True], [False] * 3]


def test_own_category_is_no_dependence():
    full, without = _measured(noise=0.01)
    without[:, 0, 0] -= 5
    assert not dependencies(full, without).needs[0, 0]


def test_cycle_is_reported_and_in_the_middle():
    needs = np.zeros((4, 4), dtype=bool)
    needs[0, 1] = needs[1, 0] = needs[1, 2] = True
    assert cycles_of(needs) == [[0, 1]]
    assert levels_of(needs).tolist() == [1, 1, 2, 1]


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected"):
        dependencies(np.zeros((2, 3)), np.zeros((2, 3, 2)))
