"""Arms that select nothing: the whole pool, and no row of it."""

import numpy as np
import pytest

from instsel.selection.full_pool import FullPool
from instsel.selection.method_data import IndexData
from instsel.selection.validation_only import ValidationOnly

DATA = IndexData(list("abc"), np.array([1, 1, 1]), np.array([2, 3, 4]))


def test_the_whole_pool_is_all_rows_in_their_order():
    method = FullPool(method="full_pool")
    selection = method.select(DATA, 3, 0)
    assert selection.indices.tolist() == [0, 1, 2] and method.picks == "all"
    assert method.reasons(DATA, selection, 0) == ["the whole pool"] * 3


def test_validation_only_has_no_row_of_the_pool():
    method = ValidationOnly(method="validation_only")
    selection = method.select(DATA, 3, 0)
    assert len(selection) == 0 and method.reasons(DATA, selection, 0) == [] and method.picks == "none"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (FullPool(method="full_pool", mixture="pool"), "'full_pool' picks all of the pool's rows; remove mixture"),
        (ValidationOnly(method="validation_only", mixture="pool"), "picks none of the pool's rows; remove mixture"),
        (ValidationOnly(method="validation_only", order="sorted"), "has order: sorted, .* validation rows have none"),
    ],
)
def test_shares_and_levels_of_rows_that_are_not_chosen_are_refused(method, message):
    with pytest.raises(ValueError, match=message):
        method.check(["t"], "cosine")
