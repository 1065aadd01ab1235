import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsel.mixture.interaction import effect_equivalence, from_effects, from_gradients, from_subsets

HURTS = np.array([[1.0, 0.4, -0.5], [0.2, 1.0, 0.3], [-0.1, 0.0, 1.0]])


def test_T2_ratio_of_means_and_mean_of_ratios():
    base = [[50.0, 60.0]]
    added = [[[52.0, 66.0]], [[53.0, 61.0]]]
    assert effect_equivalence(base, added)[:, 0] == pytest.approx([1.0, 0.5])
    ratios = effect_equivalence(base, added, aggregate="mean_of_ratios")
    assert ratios[:, 0] == pytest.approx([1.0, 0.8333333])


def test_first_index_is_the_category_that_was_added():
    base = np.zeros((2, 1))
    added = np.array([[[1.0], [3.0]], [[5.0], [2.0]]])
    assert effect_equivalence(base, added).tolist() == [[1.0, 1.5], [5.0, 1.0]]


def test_zero_denominator_is_unknown_and_named():
    added = np.array([[[0.0], [1.0]], [[1.0], [2.0]]])
    with pytest.warns(UserWarning, match="categories 0"):
        gamma = effect_equivalence(np.zeros((2, 1)), added)
    assert np.isnan(gamma[1, 0])
    assert gamma[0].tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("base", "added", "message"),
    [
        (np.zeros(3), np.zeros((3, 3, 1)), "shape"),
        (np.zeros((3, 2)), np.zeros((2, 3, 2)), "at least J"),
        (np.zeros((1, 1)), np.full((1, 1, 1), np.nan), "NaN"),
    ],
)
def test_scores_that_do_not_fit_are_refused(base, added, message):
    with pytest.raises(ValueError, match=message):
        effect_equivalence(base, added)


def test_unknown_aggregate_is_refused():
    with pytest.raises(ValueError, match="choose ratio_of_means"):
        effect_equivalence([[0.0]], [[[1.0]]], aggregate="mean")


def test_one_sample_gives_the_ratios_of_effect_equivalence():
    random = np.random.default_rng(0)
    base, added = random.normal(size=(4, 7)), random.normal(size=(4, 4, 7))
    for place in range(4):
        added[place, place] += 5
    found = from_effects((added - base).mean(axis=2)[None])
    assert found.gamma == pytest.approx(effect_equivalence(base, added))
    assert np.isnan(found.error[~np.eye(4, dtype=bool)]).all()


@given(st.integers(0, 10_000), st.integers(3, 8))
def test_errors_cover_the_truth_that_effects_were_drawn_around(seed, samples):
    random = np.random.default_rng(seed)
    own = random.uniform(2, 2.2, size=(samples, 1, 3))
    effects = HURTS * own + random.normal(scale=0.01, size=(samples, 3, 3))
    found = from_effects(effects)
    assert np.abs(found.gamma - HURTS).max() < 0.06
    assert (found.error[~np.eye(3, dtype=bool)] > 0).all()
    assert found.error.max() < 0.06


def test_errors_are_the_spread_that_repeated_studies_show():
    random = np.random.default_rng(1)
    repeats = [from_effects(HURTS + random.normal(scale=0.05, size=(20, 3, 3))) for _ in range(300)]
    spread = np.std([found.gamma for found in repeats], axis=0)
    told = np.mean([found.error for found in repeats], axis=0)
    apart = ~np.eye(3, dtype=bool)
    assert told[apart] == pytest.approx(spread[apart], rel=0.15)


def test_denominator_not_clearly_above_zero_is_unknown():
    effects = np.broadcast_to(HURTS, (3, 3, 3)).copy()
    effects[:, 2, 2] = [0.5, -0.4, 0.1]
    with pytest.warns(UserWarning, match="categories 2"):
        found = from_effects(effects)
    assert found.unknown.tolist() == [2]
    assert np.isnan(found.gamma[:2, 2]).all()
    assert found.gamma[2, 2] == 1
    assert np.isfinite(found.gamma[:, :2]).all()


def test_negative_denominator_is_unknown_even_where_it_is_certain():
    with pytest.warns(UserWarning, match="categories 1"):
        found = from_effects(np.array([[[1.0, 1.0], [1.0, -2.0]]]))
    assert np.isnan(found.gamma[0, 1])


def test_failed_run_is_left_out():
    effects = np.stack([HURTS, HURTS, HURTS])
    effects[1, 0] = np.nan
    assert from_effects(effects).gamma == pytest.approx(HURTS)


def test_effect_that_was_never_measured_is_refused():
    effects = HURTS[None].copy()
    effects[0, 1, 2] = np.nan
    with pytest.raises(ValueError, match="category 1 on category 2"):
        from_effects(effects)


def test_single_sample_takes_the_errors_over_items():
    found = from_effects(HURTS[None], errors=np.full((1, 3, 3), 0.1))
    assert found.self_effect_error == pytest.approx(0.1)
    assert found.error[0, 1] == pytest.approx(0.1 * np.sqrt(1 + 0.4**2))


def test_gradients_give_the_products_that_they_are_defined_by():
    random = np.random.default_rng(2)
    steps, slopes = random.normal(size=(3, 16)), random.normal(size=(3, 16))
    slopes += 2 * steps
    found = from_gradients(steps[None], slopes[None])
    products = steps @ slopes.T
    assert found.gamma == pytest.approx(np.where(np.eye(3), 1, products / np.diagonal(products)))


def test_gradients_have_no_errors_beside_zero_where_groups_agree():
    random = np.random.default_rng(3)
    steps = random.normal(size=(2, 8))
    found = from_gradients(np.stack([steps] * 4), np.stack([steps] * 4))
    assert found.gamma == pytest.approx(from_gradients(steps[None], steps[None]).gamma)
    assert found.error == pytest.approx(0, abs=1e-12)


def test_more_noise_in_the_gradients_means_larger_errors():
    random = np.random.default_rng(4)
    steps = random.normal(size=(2, 8))
    told = []
    for scale in (0.01, 0.1):
        noise = random.normal(scale=scale, size=(2, 10, 2, 8))
        told.append(from_gradients(steps + noise[0], steps + noise[1]).error[0, 1])
    assert 3 < told[1] / told[0] < 30


def test_gradients_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="expected"):
        from_gradients(np.zeros((2, 3, 4)), np.zeros((3, 3, 4)))


def test_regression_finds_the_effects_that_made_the_scores():
    random = np.random.default_rng(5)
    included = (random.random((40, 3)) < 0.5).astype(float)
    scores = included @ HURTS + random.normal(scale=0.01, size=(40, 3))
    found = from_subsets(included, scores, ridge=1e-6)
    assert found.gamma == pytest.approx(HURTS, abs=0.03)
    assert (found.error[~np.eye(3, dtype=bool)] < 0.03).all()


def test_regression_of_few_runs_is_less_sure():
    random = np.random.default_rng(6)
    told = []
    for runs in (12, 200):
        included = (random.random((runs, 3)) < 0.5).astype(float)
        scores = included @ HURTS + random.normal(scale=0.1, size=(runs, 3))
        told.append(from_subsets(included, scores).error[0, 1])
    assert told[0] > 2 * told[1]


def test_category_in_every_run_cannot_be_told():
    included = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    with pytest.raises(ValueError, match="category 0"):
        from_subsets(included, np.zeros((4, 2)))


def test_bug_regression_took_noise_of_few_runs_for_help():
    random = np.random.default_rng(7)
    helped = 0
    for _ in range(300):
        included = np.stack([random.permutation([0.0, 1.0] * 5) for _ in range(6)], axis=1)
        scores = random.normal(size=(10, 6))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            helped += 6 - len(from_subsets(included, scores).unknown)
    assert helped / 1800 < 0.05


def test_fewer_runs_than_categories_are_refused():
    with pytest.raises(ValueError, match="4 runs cannot tell 3 categories apart; take 5 or more"):
        from_subsets(np.eye(4)[:, :3], np.zeros((4, 3)))
