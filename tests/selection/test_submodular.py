import tracemalloc
import warnings
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from instsel.selection import Selection, kernels, submodular
from instsel.selection.kernels import TIE

T7 = np.array([[1, 0.8, 0.2], [0.8, 1, 0.4], [0.2, 0.4, 1]])
T8 = np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]])

FUNCTIONS = [submodular.facility_location, submodular.graph_cut, submodular.log_det]

# Rows that repeat, are multiples of each other, are zero, and are large and small.
EMBEDDINGS = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.sampled_from([0.0, 1.0, 2.0, -1.0, 0.5, 3.0, 1e200, 1e-200]),
)


def quiet(function: Callable[..., Selection], *arguments: object, **keywords: object) -> Selection:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **keywords)


def cosines(x: np.ndarray) -> np.ndarray:
    units = np.zeros(x.shape)
    for row, values in enumerate(x.astype(np.float64)):
        if values.any():
            values = values / np.abs(values).max()
            units[row] = values / np.linalg.norm(values)
    return np.array([[left @ right for right in units] for left in units]).reshape(len(x), len(x))


def greedy(gain: Callable[[list[int], int], float], rows: int, budget: int, slack: float = 0.0) -> tuple[list, list]:
    """Look at every row before every pick; gains within `slack` of the largest are ties."""
    picks: list[int] = []
    scores: list[float] = []
    for _ in range(min(budget, rows)):
        gains = {row: gain(picks, row) for row in range(rows) if row not in picks}
        row = min(row for row, value in gains.items() if value >= max(gains.values()) - slack)
        picks.append(row)
        scores.append(gains[row])
    return picks, scores


def plain_facility_location(s: np.ndarray, budget: int) -> tuple[list, list]:
    def gain(picks: list[int], row: int) -> float:
        best = np.maximum(s[picks].max(axis=0, initial=0), 0)
        return np.maximum(s[row] - best, 0).sum()

    return greedy(gain, len(s), budget)


def plain_graph_cut(s: np.ndarray, budget: int, lam: float) -> tuple[list, list]:
    def gain(picks: list[int], row: int) -> float:
        return s[row].sum() - 2 * lam * s[row, picks].sum() - lam * s[row, row]

    return greedy(gain, len(s), budget, TIE * np.abs(s).sum(axis=1).max(initial=0))


def plain_log_det(s: np.ndarray, budget: int) -> tuple[list, list]:
    def determinant(rows: list[int]) -> float:
        return float(np.linalg.slogdet(s[np.ix_(rows, rows)] + np.eye(len(rows)))[1])

    return greedy(lambda picks, row: determinant([*picks, row]) - determinant(picks), len(s), budget, 1e-11)


def budgets(rows: int) -> list[int]:
    return [0, 1, rows // 2, rows, rows + 1]


def duplicated(rows: int, columns: int, seed: int) -> np.ndarray:
    """Clusters of points, a third of them copies of others, in random order."""
    random = np.random.default_rng(seed)
    points = random.standard_normal((9, columns))[random.integers(9, size=rows)] + random.standard_normal(
        (rows, columns)
    )
    points[rows - rows // 3 :] = points[: rows // 3]
    return random.permutation(points)


def test_hand_computed_case_t7() -> None:
    selection = submodular.graph_cut(T7, 3, lam=0.4, metric="precomputed")
    assert selection.indices.tolist() == [1, 0, 2]
    np.testing.assert_allclose(selection.scores, [1.8, 0.96, 0.72])


def test_hand_computed_case_t8() -> None:
    selection = submodular.facility_location(T8, 3, metric="precomputed")
    assert selection.indices.tolist() == [1, 2, 0]
    np.testing.assert_allclose(selection.scores, [2.1, 0.8, 0.1])


def test_log_det_by_hand() -> None:
    # 1 + s = 2 for all, so the first row; then det [[2, .9], [.9, 2]] = 3.19 against 3.99 for the third.
    selection = submodular.log_det(T8, 2, metric="precomputed")
    assert selection.indices.tolist() == [0, 2]
    np.testing.assert_allclose(selection.scores, [np.log(2), np.log(3.99 / 2)])


@settings(max_examples=80, deadline=None)
@given(EMBEDDINGS, st.booleans())
def test_facility_location_of_embeddings_equals_plain_greedy(x: np.ndarray, hold: bool) -> None:
    s = np.rint(cosines(x) * 2**24) / 2**24
    for budget in budgets(len(x)):
        got = quiet(submodular.facility_location, x, budget, kernel_bytes=2**30 if hold else 0)
        # Sums of multiples of 2^-24 are exact: the gains are the same bits.
        assert (got.indices.tolist(), got.scores.tolist()) == plain_facility_location(s, budget)
        assert got.driven_by is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_facility_location_of_a_matrix_equals_plain_greedy(data: st.DataObject) -> None:
    values = data.draw(st.sampled_from([[0.0, 1.0], [0.1, 0.2, 0.7, -0.3], [0.1, 0.1 + 2**-55, 1e-9, 3.0]]))
    rows = data.draw(st.integers(1, 30))
    upper = np.triu(data.draw(hnp.arrays(np.float64, (rows, rows), elements=st.sampled_from(values))))
    s = upper + np.triu(upper, 1).T
    for batch in (1, 3, 16):
        with mock.patch.object(submodular, "_FIRST_BATCH", batch):
            got = submodular.facility_location(s, rows, metric="precomputed")
        assert (got.indices.tolist(), got.scores.tolist()) == plain_facility_location(s, rows)


def test_a_lower_row_whose_old_gain_equals_a_new_one_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submodular, "_FIRST_BATCH", 1)
    s = np.zeros((21, 21))
    for row, leaves in ((0, range(3, 7)), (1, range(7, 13)), (2, range(11, 21))):
        s[row, leaves] = s[leaves, row] = 1
    # Row 2 gains 10 and takes two of row 1's six; then rows 0 and 1 both gain 4.
    assert submodular.facility_location(s, 3, metric="precomputed").indices.tolist() == [2, 0, 1]


@settings(max_examples=60, deadline=None)
@given(EMBEDDINGS, st.sampled_from([0.0, 0.4, 2.0]))
def test_graph_cut_equals_plain_greedy(x: np.ndarray, lam: float) -> None:
    s = cosines(x)
    for budget in budgets(len(x)):
        picks, scores = plain_graph_cut(s, budget, lam)
        for got in (
            quiet(submodular.graph_cut, x, budget, lam=lam),
            submodular.graph_cut(s, budget, lam=lam, metric="precomputed"),
        ):
            assert got.indices.tolist() == picks
            np.testing.assert_allclose(got.scores, scores, atol=1e-12 * len(x))
            assert got.driven_by is None


@settings(max_examples=60, deadline=None)
@given(EMBEDDINGS)
def test_log_det_equals_plain_greedy(x: np.ndarray) -> None:
    s = cosines(x)
    for budget in budgets(len(x)):
        picks, scores = plain_log_det(s, budget)
        for got in (quiet(submodular.log_det, x, budget), submodular.log_det(s, budget, metric="precomputed")):
            assert got.indices.tolist() == picks
            np.testing.assert_allclose(got.scores, scores, atol=1e-10)
            assert got.driven_by is None


@pytest.mark.parametrize("kernel_bytes", [0, 2**30])
def test_facility_location_of_many_tiles_and_batches_equals_plain_greedy(
    kernel_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_TILE", 37)
    monkeypatch.setattr(kernels, "_WORK_BYTES", 2**13)
    x = duplicated(200, 6, seed=0)
    got = submodular.facility_location(x, 200, kernel_bytes=kernel_bytes)
    picks, scores = plain_facility_location(np.rint(cosines(x) * 2**24) / 2**24, 200)
    assert (got.indices.tolist(), got.scores.tolist()) == (picks, scores)


@pytest.mark.parametrize("batch", [1, 16])
def test_lazy_greedy_of_a_large_matrix_equals_plain_greedy(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submodular, "_FIRST_BATCH", batch)
    s = np.rint(cosines(duplicated(200, 6, seed=0)) * 2**24) / 2**24
    got = submodular.facility_location(s, 200, metric="precomputed")
    assert (got.indices.tolist(), got.scores.tolist()) == plain_facility_location(s, 200)


def test_the_others_with_many_duplicates_equal_plain_greedy() -> None:
    x = duplicated(90, 6, seed=1)
    s = cosines(x)
    assert submodular.graph_cut(x, 90).indices.tolist() == plain_graph_cut(s, 90, 0.4)[0]
    assert submodular.log_det(x, 90).indices.tolist() == plain_log_det(s, 90)[0]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_equal_rows_go_by_their_number(function: Callable[..., Selection]) -> None:
    x = np.random.default_rng(3).standard_normal((1, 384)).repeat(700, axis=0)
    assert function(x, 40).indices.tolist() == list(range(40))


def test_tiles_and_batches_change_no_bit_of_facility_location(monkeypatch: pytest.MonkeyPatch) -> None:
    x = duplicated(900, 50, seed=4).astype(np.float32)
    expected = submodular.facility_location(x, 300)
    for tile, work, kernel_bytes in ((64, 2**12, 2**30), (100, 2**10, 0), (1000, 2**24, 0)):
        monkeypatch.setattr(kernels, "_TILE", tile)
        monkeypatch.setattr(kernels, "_WORK_BYTES", work)
        got = submodular.facility_location(x, 300, kernel_bytes=kernel_bytes)
        assert got.indices.tolist() == expected.indices.tolist()
        assert got.scores.tolist() == expected.scores.tolist()


@pytest.mark.parametrize("metric", ["cosine", "precomputed"])
def test_few_rows_are_looked_at_again(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []

    def count(owner: type, name: str) -> None:
        plain = getattr(owner, name)

        def call(self: object, rows: np.ndarray, *arguments: np.ndarray) -> np.ndarray:
            looked_at.append(len(rows))
            return plain(self, rows, *arguments)

        monkeypatch.setattr(owner, name, call)

    count(kernels.HeldCosines, "losses")
    count(kernels.GivenSimilarities, "gains")
    x = np.random.default_rng(5).standard_normal((1500, 64))
    submodular.facility_location(x if metric == "cosine" else np.corrcoef(x), 200, metric=metric)
    # Plain greedy looks at 280,100.
    assert 0 < sum(looked_at) < {"cosine": 8_000, "precomputed": 30_000}[metric]


@pytest.mark.parametrize("function", [submodular.graph_cut, submodular.log_det])
def test_no_matrix_of_pairs_is_made(function: Callable[..., Selection]) -> None:
    assert peak_bytes(function, np.ones((3000, 8)), 20) < 3000 * 3000


def test_facility_location_holds_the_pairs_only_below_its_bytes() -> None:
    x = np.random.default_rng(6).standard_normal((3000, 8))
    assert peak_bytes(submodular.facility_location, x, 20, kernel_bytes=4 * 3000**2) > 4 * 3000**2
    # Tiles and blocks of 8 MiB, whatever the rows.
    assert peak_bytes(submodular.facility_location, x, 20, kernel_bytes=4 * 3000**2 - 1) < 27 * 2**20


def peak_bytes(function: Callable[..., Selection], *arguments: object, **keywords: object) -> int:
    tracemalloc.start()
    try:
        function(*arguments, **keywords)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kernel_bytes", [0, 2**30])
def test_stochastic_greedy_takes_the_best_of_every_draw(kernel_bytes: int) -> None:
    x = duplicated(60, 5, seed=7)
    s = np.rint(cosines(x) * 2**24) / 2**24
    words = np.random.PCG64(11)
    left, picks = list(range(60)), []
    for _ in range(12):
        keys = words.random_raw(len(left))
        # ceil(60 / 12 * ln 10) = 12 rows a draw.
        drawn = sorted(left[position] for position in np.argsort(keys)[:12])
        best = np.maximum(s[picks].max(axis=0, initial=0), 0)
        gains = [np.maximum(s[row] - best, 0).sum() for row in drawn]
        picks.append(drawn[int(np.argmax(gains))])
        left.remove(picks[-1])
    got = submodular.facility_location(x, 12, stochastic=0.1, seed=11, kernel_bytes=kernel_bytes)
    assert got.indices.tolist() == picks


def test_stochastic_greedy_depends_on_its_seed_and_a_draw_of_all_rows_is_exact() -> None:
    x = duplicated(80, 5, seed=8)
    exact = submodular.facility_location(x, 20)
    first, repeated, other = (
        submodular.facility_location(x, 20, stochastic=0.5, seed=seed).indices for seed in (1, 1, 2)
    )
    assert first.tolist() == repeated.tolist() != other.tolist()
    everything = submodular.facility_location(x, 20, stochastic=1e-9)
    assert everything.indices.tolist() == exact.indices.tolist()
    assert submodular.facility_location(x, 20, stochastic=0.3).scores.sum() > 0.8 * exact.scores.sum()
    assert len(submodular.facility_location(x, 0, stochastic=0.3)) == 0


def test_stochastic_greedy_works_on_a_matrix() -> None:
    picks = submodular.facility_location(T8, 3, metric="precomputed", stochastic=0.9, seed=3).indices
    assert sorted(picks.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_zero_rows_are_named_and_like_nothing(function: Callable[..., Selection]) -> None:
    x = np.random.default_rng(9).uniform(0.1, 1, (20, 3))
    x[[2, 4, 6, 8, 10, 12]] = 0
    with pytest.warns(
        UserWarning, match=r"6 rows of x are zero and similar to nothing: 2, 4, 6, 8, 10, \.\.\."
    ) as caught:
        selection = function(x, 20)
    assert caught[0].filename == __file__
    scores = dict(zip(selection.indices.tolist(), selection.scores.tolist(), strict=True))
    assert [scores[row] for row in (2, 4, 6, 8, 10, 12)] == [0.0] * 6


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_rows_and_no_budget_give_an_empty_selection(function: Callable[..., Selection]) -> None:
    assert len(function(np.empty((0, 3)), 5)) == 0
    assert len(function(np.empty((0, 0)), 5, metric="precomputed")) == 0
    assert len(function(np.ones((4, 3)), 0)) == 0


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8])
def test_any_real_dtype_is_taken(function: Callable[..., Selection], dtype: type) -> None:
    x = np.random.default_rng(10).integers(-9, 9, (30, 4))
    assert function(x.astype(dtype), 9).indices.tolist() == function(x.astype(np.float64), 9).indices.tolist()
    s = (x @ x.T + 300 * np.eye(30)).astype(np.float32)
    same = [function(s.astype(kind), 9, metric="precomputed").indices.tolist() for kind in (np.float32, np.int32)]
    assert same[0] == same[1]


def test_gains_of_graph_cut_below_zero_are_taken_too() -> None:
    selection = submodular.graph_cut(np.ones((4, 2)), 4, lam=1.0)
    assert selection.indices.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(selection.scores, [3, 1, -1, -3])


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("x", "budget", "keywords", "message"),
    [
        (np.zeros(3), 1, {}, "rank 2"),
        (np.zeros((3, 0)), 1, {}, "column"),
        (np.array([["a", "b"]]), 1, {}, "dtype"),
        (np.array([[0.0, 1.0], [np.nan, 1.0]]), 1, {}, "nan at row 1, column 0"),
        (np.array([[0.0, -np.inf]]), 0, {}, "row 0, column 1"),
        (np.ones((3, 2)), -1, {}, "-1"),
        (np.ones((3, 2)), 1.5, {}, "1.5"),
        (np.ones((3, 2)), 1, {"metric": "dot"}, "'dot'"),
        (np.ones((3, 2)), 1, {"metric": "precomputed"}, r"square.*\(3, 2\)"),
        (np.array([[1.0, np.inf], [np.inf, 1]]), 1, {"metric": "precomputed"}, "row 0, column 1"),
        (np.array([[1, 0.2, 0], [0.2, 1, 0.3], [0, 0.4, 1]]), 1, {"metric": "precomputed"}, r"0.3 at \(1, 2\)"),
    ],
)
def test_bad_arguments_name_what_is_wrong(
    function: Callable[..., Selection], x: np.ndarray, budget: int, keywords: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        function(x, budget, **keywords)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"stochastic": 0.0}, "0.0"),
        ({"stochastic": 1}, "got 1"),
        ({"stochastic": np.nan}, "nan"),
        ({"stochastic": 0.5, "seed": -1}, "seed"),
        ({"kernel_bytes": -1}, "kernel_bytes"),
    ],
)
def test_bad_options_of_facility_location_are_refused(keywords: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        submodular.facility_location(np.ones((3, 2)), 1, **keywords)


@pytest.mark.parametrize("lam", [-0.1, np.nan, np.inf])
def test_graph_cut_refuses_a_weight_below_zero(lam: float) -> None:
    with pytest.raises(ValueError, match="lam"):
        submodular.graph_cut(T7, 1, lam=lam)


def test_a_matrix_without_a_log_determinant_is_refused() -> None:
    with pytest.raises(ValueError, match="positive definite.*row 1"):
        submodular.log_det(np.array([[1.0, 3.0], [3.0, 1.0]]), 2, metric="precomputed")


def test_an_asymmetric_pair_beyond_the_first_block_is_found() -> None:
    s = np.zeros((2500, 2500), dtype=np.float32)
    s[2400, 2450] = 1
    with pytest.raises(ValueError, match=r"1.0 at \(2400, 2450\) and 0.0 at \(2450, 2400\)"):
        submodular.graph_cut(s, 1, metric="precomputed")
