import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsel.config.search import Objective, Range
from instsel.evaluation.halves import searched_rows
from instsel.search.outcome import Outcome, importances, objective_of, pareto_set

INFINITE = float("inf")


def _outcome(name, objective, tokens, point=None, **told):
    return Outcome(name, point or {}, objective, tokens, {}, {}, **told)


def test_objective_weighs_the_worst_target_and_the_cost():
    losses = {"a": 1.0, "b": 3.0}
    assert objective_of(losses, 500_000, Objective()) == 2.0
    assert objective_of(losses, 500_000, Objective(worst=0.5)) == 2.5
    assert objective_of(losses, 500_000, Objective(cost=0.2)) == pytest.approx(2.1)


@given(st.integers(2, 40), st.floats(0.01, 0.99))
def test_rows_are_parted_by_id_alone_with_some_on_either_side(count, share):
    ids = [f"{number * 7919 % 1009:04x}" for number in range(count)]
    found = searched_rows(ids, share)
    assert 1 <= found.sum() <= count - 1
    assert abs(found.sum() - share * count) <= 1
    again = searched_rows(ids[::-1], share)
    assert again.tolist() == found[::-1].tolist()


def test_single_row_cannot_be_parted():
    with pytest.raises(ValueError, match="cannot be parted"):
        searched_rows(["a"], 0.5)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_pareto_set_has_all_that_nothing_beats(pairs):
    outcomes = [_outcome(str(place), float(loss), tokens) for place, (loss, tokens) in enumerate(pairs)]
    found = pareto_set(outcomes)

    def beaten(one):
        return any(
            other.tokens <= one.tokens
            and other.objective <= one.objective
            and (other.tokens < one.tokens or other.objective < one.objective)
            for other in outcomes
        )

    assert {(one.tokens, one.objective) for one in found} == {
        (one.tokens, one.objective) for one in outcomes if not beaten(one)
    }
    assert len({(one.tokens, one.objective) for one in found}) == len(found)


def test_failed_trials_are_in_no_pareto_set():
    assert pareto_set([_outcome("a", INFINITE, 0, failed="diverged")]) == []


def test_key_that_decides_the_objective_matters_most():
    space = {"rate": Range(low=0.1, high=1.0), "method": ["a", "b"], "fixed": ["only"]}
    outcomes = [
        _outcome(f"{step}", step / 10, 1, {"rate": 0.1 + step * 0.09, "method": "ab"[step % 2], "fixed": "only"})
        for step in range(10)
    ]
    found = importances(outcomes, space, seed=0)
    assert list(found)[0] == "rate" and found["rate"] > 0.8
    assert set(found) == {"rate", "method"}
    assert found == importances(outcomes, space, seed=0)


def test_few_trials_or_equal_ones_tell_nothing():
    point = {"method": "a"}
    assert importances([_outcome("a", 1.0, 1, point)], {"method": ["a", "b"]}, 0) == {}
    same = [_outcome(str(number), 1.0, 1, point) for number in range(6)]
    assert importances(same, {"method": ["a", "b"]}, 0) == {}
