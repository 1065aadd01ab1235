import numpy as np
import pytest

from instsel.config.mixture import Interventions, Regression
from instsel.mixture.categories import Categories, divide
from instsel.mixture.experiments import interventions, subsets


@pytest.fixture
def categories() -> Categories:
    labels = ["a"] * 40 + ["b"] * 30 + ["c"] * 12 + ["rest"] * 4
    ids = [f"{number * 7919 % 1009:04x}" for number in range(len(labels))]
    return divide(ids, labels, least=10, held=4)


def _plan(**changed):
    return Interventions(**{"bases": 2, "base_rows": 20, "added_rows": 6, **changed})


def test_every_sample_has_a_base_and_each_category_added_and_removed(categories):
    runs = interventions(categories, _plan())
    named = [one.name for one in runs if one.sample == 0]
    assert named[:4] == ["base-0", "add-0-0", "add-0-1", "add-0-2"]
    assert named[4:6] == ["remove-0-0", "remove-0-1"]
    assert {one.sample for one in runs} == {0, 1}


def test_no_run_trains_on_rows_that_are_evaluated_on_nor_twice_on_one(categories):
    for one in [*interventions(categories, _plan()), *subsets(categories, Regression(runs=5, base_rows=9))]:
        assert not categories.held[one.rows].any()
        assert len(set(one.rows.tolist())) == len(one.rows)


def test_addition_is_the_base_and_rows_of_that_category(categories):
    runs = interventions(categories, _plan())
    base = next(one for one in runs if one.kind == "base" and one.sample == 1)
    for one in runs:
        if one.kind != "add" or one.sample != 1:
            continue
        assert one.rows[:20].tolist() == base.rows.tolist()
        assert set(categories.labels[one.rows[20:]].tolist()) == {categories.names[one.category]}
        assert sum(one.added) == one.added[one.category] == len(one.rows) - 20


def test_removal_is_the_base_without_that_category(categories):
    runs = interventions(categories, _plan())
    base = next(one for one in runs if one.kind == "base" and one.sample == 0)
    removed = [one for one in runs if one.kind == "remove" and one.sample == 0]
    assert removed
    for one in removed:
        kept = categories.labels[base.rows] != categories.names[one.category]
        assert one.rows.tolist() == base.rows[kept].tolist()


def test_small_category_adds_what_it_has(categories):
    runs = interventions(categories, _plan(added_rows=50, base_rows=5))
    assert all(0 < one.added[2] <= 8 for one in runs if one.kind == "add" and one.category == 2)


def test_samples_differ_and_the_seed_decides_them(categories):
    first, again, other = (interventions(categories, _plan(seed=seed)) for seed in (0, 0, 1))
    assert [one.rows.tolist() for one in first] == [one.rows.tolist() for one in again]
    assert first[0].rows.tolist() != other[0].rows.tolist()
    bases = [one.rows.tolist() for one in first if one.kind == "base"]
    assert bases[0] != bases[1]


def test_no_removals_where_none_are_wanted(categories):
    assert {one.kind for one in interventions(categories, _plan(removals=False))} == {"base", "add"}


def test_base_larger_than_the_pool_is_refused(categories):
    with pytest.raises(ValueError, match="base_rows is 99, but only 74 rows"):
        interventions(categories, _plan(base_rows=99))


def test_base_that_leaves_nothing_to_add_is_refused(categories):
    with pytest.raises(ValueError, match="none of category a to add"):
        interventions(categories, _plan(base_rows=74))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_every_category_is_in_some_subset_and_not_in_all(categories, share):
    added = np.array(
        [one.added for one in subsets(categories, Regression(runs=5, share=share, base_rows=9, added_rows=5))]
    )
    assert ((added > 0).any(axis=0) & (added == 0).any(axis=0)).all()


def test_too_few_subsets_are_refused_before_anything_is_trained(categories):
    with pytest.raises(ValueError, match="runs is 4, too few to tell 3 categories apart; take 5"):
        subsets(categories, Regression(runs=4, base_rows=9))
