import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from instsel.mixture.program import counts, solve
from instsel.mixture.release import release_counts

ALPHA = np.array([0.5, 0.3, 0.2])
GAMMA = np.array([[1, 0.2, -0.5], [0.4, 1, 0.1], [0, 0.6, 1]]).T  # gamma[added, evaluated]


def test_T1a_box():
    found = solve(ALPHA, GAMMA, max_shift=1, lower=ALPHA - 0.1, upper=ALPHA + 0.1)
    assert found.worth == pytest.approx([0.62, 0.52, -0.02])
    assert found.weights == pytest.approx([0.6, 0.3, 0.1])
    assert found.objective == pytest.approx(0.526)
    assert found.start_objective == pytest.approx(0.462)


def test_T1b_trust_region_and_counts():
    found = solve(ALPHA, GAMMA)
    assert found.objective == pytest.approx(0.4812)
    assert counts(found.weights, 1000).tolist() == [530, 300, 170]


def test_T1b_release():
    assert release_counts(ALPHA, GAMMA, [500, 300, 200], [9999] * 3).tolist() == [530, 285, 185]


def test_T1c_transposed_gamma_has_another_best_category():
    found = solve(ALPHA, GAMMA.T)
    assert found.worth == pytest.approx([0.46, 0.52, 0.38])
    assert found.start_objective == pytest.approx(0.462)
    assert found.weights.argmax() == 0
    assert found.weights[1] > 0.3


@st.composite
def programmes(draw):
    size = draw(st.integers(2, 7))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    importance, start = random.dirichlet(np.ones(size), size=2)
    gamma = random.normal(size=(size, size))
    np.fill_diagonal(gamma, 1)
    lower = start * random.uniform(0, 1, size)
    upper = np.minimum(start + random.uniform(0, 0.5, size), 1)
    return importance, gamma, start, lower, upper, draw(st.floats(0.001, 1))


@settings(deadline=None, max_examples=60)
@given(programmes())
def test_objective_is_that_of_scipy(programme):
    importance, gamma, start, lower, upper, shift = programme
    size = len(start)
    found = solve(importance, gamma, start=start, lower=lower, upper=upper, max_shift=shift)
    eye, ones = np.eye(size), np.ones((1, size))
    oracle = linprog(
        np.concatenate([-gamma @ importance, np.zeros(size)]),
        A_ub=np.block([[eye, -eye], [-eye, -eye], [np.zeros((1, size)), ones]]),
        b_ub=np.concatenate([start, -start, [2 * shift]]),
        A_eq=np.concatenate([ones, np.zeros((1, size))], axis=1),
        b_eq=[1],
        bounds=[*zip(lower, upper, strict=True), *[(0, None)] * size],
    )
    assert found.objective == pytest.approx(-oracle.fun, abs=1e-6)
    assert found.weights.sum() == pytest.approx(1)
    assert (found.weights >= lower - 1e-7).all()
    assert (found.weights <= upper + 1e-7).all()
    assert np.abs(found.weights - start).sum() / 2 <= shift + 1e-7


@settings(deadline=None, max_examples=40)
@given(programmes())
def test_dual_of_the_trust_region_is_what_a_wider_one_gains(programme):
    importance, gamma, start, lower, upper, shift = programme
    step = 1e-5

    def objective(width):
        return solve(importance, gamma, start=start, lower=lower, upper=upper, max_shift=width).objective

    below, here, above = objective(shift - step), objective(shift), objective(shift + step)
    # At a kink the two sides differ, and any dual between them is right.
    assume(abs((above - here) - (here - below)) < 1e-9)
    dual = solve(importance, gamma, start=start, lower=lower, upper=upper, max_shift=shift).duals["max_shift"]
    assert dual == pytest.approx((above - below) / (2 * step), abs=1e-3)


@settings(deadline=None, max_examples=20)
@given(programmes())
def test_duals_of_the_bounds_are_what_looser_ones_gain(programme):
    importance, gamma, start, lower, upper, shift = programme
    step = 1e-5
    found = solve(importance, gamma, start=start, lower=lower, upper=upper, max_shift=shift)
    for place in range(len(start)):
        for name in ("lower", "upper"):
            sides = []
            for move in (-step, 0, step):
                bounds = {"lower": lower.copy(), "upper": upper.copy()}
                bounds[name][place] += move if name == "upper" else -move
                try:
                    sides.append(solve(importance, gamma, start=start, max_shift=shift, **bounds).objective)
                except ValueError:
                    break
            if len(sides) < 3 or abs(sides[0] + sides[2] - 2 * sides[1]) > 1e-9:
                continue
            assert found.duals[name][place] == pytest.approx((sides[2] - sides[0]) / (2 * step), abs=1e-3)


def test_dual_of_the_sum_is_what_one_more_row_gains():
    found = solve(ALPHA, GAMMA, max_shift=1, lower=ALPHA - 0.1, upper=ALPHA + 0.1)
    assert found.duals["sum"] == pytest.approx(0.52)


def test_ties_go_to_the_first():
    found = solve([0.25] * 4, np.ones((4, 4)), max_shift=0.25)
    assert found.weights == pytest.approx([0.5, 0.25, 0.25, 0.0])


def test_no_shift_keeps_the_mixture():
    assert solve(ALPHA, GAMMA, max_shift=0).weights == pytest.approx(ALPHA)


def test_importance_apart_from_the_start():
    found = solve([0, 0, 1.0], GAMMA, start=ALPHA, max_shift=0.1)
    assert found.weights == pytest.approx([0.4, 0.3, 0.3])


def test_caution_counts_what_is_unsure_for_less():
    gamma, error = np.array([[1.0, 0.9], [0.5, 1.0]]), np.array([[0.0, 0.8], [0.1, 0.0]])
    assert solve([0.5, 0.5], gamma, max_shift=0.1, error=error).weights[0] == pytest.approx(0.6)
    assert solve([0.5, 0.5], gamma, max_shift=0.1, error=error, caution=1.0).weights[0] == pytest.approx(0.4)


def test_unknown_gamma_is_refused_by_name_unless_it_does_not_count():
    gamma = GAMMA.copy()
    gamma[0, 2] = np.nan
    with pytest.raises(ValueError, match="unknown for code"):
        solve(ALPHA, gamma, names=["chat", "maths", "code"])
    assert solve([0.5, 0.5, 0.0], gamma, start=ALPHA).weights.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"importance": [0.5, 0.3, 0.1]}, "sums to 0.9"),
        ({"importance": [0.6, 0.6, -0.2]}, "at least 0"),
        ({"gamma": np.ones((2, 3))}, "gamma has shape"),
        ({"lower": [0.5, 0.4, 0.3]}, "lower bounds of a, b, c sum to 1.2"),
        ({"upper": [0.5, 0.2, 0.1]}, "upper bounds of a, b, c sum to 0.8"),
        ({"lower": [0, 0, 0.5], "upper": [1, 1, 0.4]}, "lower is above upper for c"),
        ({"lower": [0, 0, 0.4]}, "lower bounds of c need a shift of 0.2, and max_shift is 0.03"),
        ({"upper": [0.3, 1, 1]}, "upper bounds of a need a shift of 0.2, and max_shift is 0.03"),
        ({"caution": 1.0}, "caution needs the standard errors|caution needs a standard error"),
    ],
)
def test_what_cannot_be_met_is_said(changed, message):
    arguments = {"importance": ALPHA, "gamma": GAMMA, "names": ["a", "b", "c"], **changed}
    with pytest.raises(ValueError, match=message):
        solve(arguments.pop("importance"), arguments.pop("gamma"), **arguments)


@given(
    st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=8).filter(lambda shares: sum(shares) > 0.01),
    st.integers(0, 300),
    st.data(),
)
def test_counts_keep_capacity_and_sum(shares, total, data):
    capacity = data.draw(st.lists(st.integers(0, 200), min_size=len(shares), max_size=len(shares)))
    if sum(capacity) < total:
        with pytest.raises(ValueError, match="fewer than"):
            counts(shares, total, capacity=capacity)
        return
    found = counts(shares, total, capacity=capacity)
    assert found.sum() == total
    assert (found >= 0).all()
    assert (found <= capacity).all()


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=8), st.integers(0, 300))
def test_counts_without_capacity_are_within_one_of_the_shares(shares, total):
    quotas = total * np.array(shares) / sum(shares)
    assert (np.abs(counts(shares, total) - quotas) < 1 + 1e-6).all()


def test_category_without_a_share_fills_up_last():
    assert counts([1.0, 0.0], 5, capacity=[3, 9]).tolist() == [3, 2]


def test_release_moves_nothing_where_no_category_grows():
    assert release_counts(ALPHA, np.zeros((3, 3)), [5, 3, 2], [9] * 3).tolist() == [5, 3, 2]


def test_release_keeps_the_least_and_takes_no_more_than_there_is():
    found = release_counts(ALPHA, GAMMA, [500, 300, 6], [11, 0, 0], share=0.1)
    assert found.tolist() == [510, 291, 5]


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=3, max_size=3), st.sampled_from([0.03, 0.1])
)
def test_fault_12_the_release_makes_exactly_as_many_rows_as_there_were(sizes, share):
    rows, supply = ([size[part] for size in sizes] for part in (0, 1))
    assert release_counts(ALPHA, GAMMA, rows, supply, share=share).sum() == sum(rows)
    # 31 rows are exchanged: 1,041 of 1,040 came of halving them in whole rows.
    assert release_counts(ALPHA, GAMMA, [520, 312, 208], [9999] * 3).sum() == 1040
