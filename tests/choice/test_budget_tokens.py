"""A choice keeps within its budget of tokens, and leaves no room that one more pick would fit into."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from instsel.choice.budget import Budget, choose
from instsel.errors import InputError
from instsel.selection import Selection


@dataclass(frozen=True)
class Chooser:
    ids: Sequence[str]
    pick: Callable[[int], Selection]


SIZES = np.random.default_rng(0).integers(1, 60, 50)


def ordered(order):
    """A method that always takes rows in one order."""
    order = np.asarray(order)

    def pick(count):
        count = min(count, len(order))
        return Selection(order[:count], np.arange(count, dtype=float), order[:count])

    return Chooser([str(row) for row in range(len(order))], pick)


def other_each_time(rows):
    """A method whose choice of fewer rows is no beginning of that of more: the first ones, turned round."""
    return Chooser(
        [str(row) for row in range(rows)],
        lambda count: Selection(np.arange(count)[::-1], np.zeros(count)),
    )


def test_a_budget_of_rows_is_the_methods_own():
    assert choose(ordered(range(50)), Budget(7), SIZES, True).indices.tolist() == list(range(7))


@pytest.mark.parametrize("limit", [60, 61, 500, 1200, int(SIZES.sum()) - 1, int(SIZES.sum())])
def test_a_prefix_stable_choice_is_the_longest_beginning_that_fits(limit):
    order = np.random.default_rng(1).permutation(50)
    selection = choose(ordered(order), Budget(limit, "tokens"), SIZES, True)
    held = np.cumsum(SIZES[order])
    assert selection.indices.tolist() == order[: np.count_nonzero(held <= limit)].tolist()
    assert len(selection.driven_by) == len(selection)


@pytest.mark.parametrize("limit", [60, 500, int(SIZES.sum())])
def test_a_choice_that_is_not_prefix_stable_has_the_most_rows_that_fit(limit):
    selection = choose(other_each_time(50), Budget(limit, "tokens"), SIZES, False)
    assert len(selection) == np.count_nonzero(np.cumsum(SIZES) <= limit)
    assert selection.indices.tolist() == list(range(len(selection)))[::-1]


@pytest.mark.parametrize("prefix_stable", [True, False])
def test_a_budget_below_the_first_row_is_refused(prefix_stable):
    with pytest.raises(InputError, match="selection.budget is 3 tokens, and the first row chosen has more; raise it"):
        choose(ordered(range(2)), Budget(3, "tokens"), [4, 1], prefix_stable)
