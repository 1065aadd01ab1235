import numpy as np
import pytest

from instsel.mixture.categories import FOLDS, divide

IDS = [f"{number * 7919 % 1009:04x}" for number in range(60)]
LABELS = ["chat"] * 30 + ["code"] * 20 + ["poems"] * 7 + ["other"] * 3


def test_small_categories_and_untagged_rows_count_to_other():
    made = divide(IDS, LABELS, least=10, held=4)
    assert made.names == ["chat", "code"]
    assert made.merged == {"poems": 7}
    assert (made.labels == "other").sum() == 10


def test_rows_held_are_those_with_the_smallest_ids_of_each_category():
    made = divide(IDS, LABELS, least=10, held=4)
    for name in made.names:
        own = sorted(row for row, label in zip(IDS, made.labels, strict=True) if label == name)
        held = sorted(row for row, apart in zip(IDS, made.held & (made.labels == name), strict=True) if apart)
        assert held == own[:4]
    assert not made.held[made.labels == "other"].any()


def test_order_of_the_rows_changes_nothing():
    order = np.random.default_rng(0).permutation(60)
    made = divide(IDS, LABELS, least=10, held=4)
    again = divide([IDS[place] for place in order], [LABELS[place] for place in order], least=10, held=4)
    assert again.held.tolist() == made.held[order].tolist()
    assert again.folds.tolist() == made.folds[order].tolist()


def test_folds_are_of_one_size_among_the_rows_held_and_the_others():
    made = divide(IDS, LABELS, least=10, held=9)
    for name in made.names:
        for part in (made.held, ~made.held):
            sizes = np.bincount(made.folds[part & (made.labels == name)], minlength=FOLDS)
            assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize(
    ("least", "held", "message"),
    [(25, 4, "1 of 4 categories have 25 rows or more"), (10, 10, "evaluation_rows is 10 and least_rows 10")],
)
def test_what_cannot_be_divided_is_refused(least, held, message):
    with pytest.raises(ValueError, match=message):
        divide(IDS, LABELS, least=least, held=held)
