"""Quotas: every target chooses its share by the method on its own columns, and no row is taken twice."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

import instsel
from instsel.selection import bids, bm25, less, quotas, round_robin
from instsel.selection.base import ColumnMethod
from instsel.selection.pickers import RankedPicker
from instsel.selection.registry import REGISTRY, AnyMethod

METHODS = ["bids", "less", "round_robin", "instance_max", "task_max", "sum"]


def counts_of(shares, budget):
    """Largest remainder as it is written: whole parts, then one each to the largest remainders, the first of equals."""
    whole = {name: int(round(share * budget, 9)) for name, share in shares.items()}
    rest = sorted(shares, key=lambda name: (-round(shares[name] * budget - whole[name], 9), name))
    for name in rest[: budget - sum(whole.values())]:
        whole[name] += 1
    return whole


def score(method, values, subtasks, own, own_rows, turn):
    """What a target gives each row at its turn, and what drives it: by the columns that it owns."""
    if method == "bids":
        z = (values - values.mean(axis=0)) / values.std(axis=0)
        mean = z[own_rows].mean(axis=0) if own_rows else np.zeros(values.shape[1])
        short = (z - mean)[:, own]
        return short.max(axis=1), np.array(own)[short.argmax(axis=1)]
    if method == "less":
        names = sorted(set(subtasks))
        means = {
            name: values[:, [column for column in own if subtasks[column] == name]].mean(axis=1)
            for name in names
            if any(subtasks[column] == name for column in own)
        }
        table = np.stack(list(means.values()), axis=1)
        return table.max(axis=1), np.array([names.index(name) for name in means])[table.argmax(axis=1)]
    if method == "round_robin":
        column = own[turn % len(own)]
        return values[:, column], np.full(len(values), column)
    if method == "instance_max":
        return values[:, own].max(axis=1), np.array(own)[values[:, own].argmax(axis=1)]
    return values[:, own].sum(axis=1), None


def naive(method, values, budget, shares, targets, subtasks):
    """The rule as it is written: look at every row at every turn."""
    left = counts_of(shares, min(budget, len(values)))
    taken, scores, drivers = [], [], []
    own_rows = {name: [] for name in shares}
    while any(left.values()):
        for name in sorted(shares):
            if not left[name]:
                continue
            left[name] -= 1
            own = [column for column, target in enumerate(targets) if target == name]
            points, driven = score(method, values, subtasks, own, own_rows[name], len(own_rows[name]))
            row = max((row for row in range(len(values)) if row not in taken), key=lambda row: (points[row], -row))
            taken.append(row)
            own_rows[name].append(row)
            scores.append(points[row])
            drivers.append(sorted(shares).index(name) if driven is None else driven[row])
    return taken, scores, drivers


def options(method, targets, subtasks):
    return {"less": {"subtasks": subtasks}, "task_max": {"tasks": targets}}.get(method, {})


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_picks_are_those_of_the_plain_loop(method, data):
    rows, columns = data.draw(st.integers(2, 9)), data.draw(st.integers(1, 6))
    seed, budget = data.draw(st.integers(0, 2**31)), data.draw(st.integers(0, 11))
    rng = np.random.default_rng(seed)
    # Few values, so that there are ties; whole numbers, so that sums are exact in every order. BIDS divides by
    # deviations, where equal shortfalls differ by their rounding.
    values = rng.normal(size=(rows, columns)) if method == "bids" else rng.integers(-3, 4, (rows, columns)) * 60.0
    targets = [str(label) for label in rng.integers(0, 3, columns)]
    subtasks = [f"{target}{part}" for target, part in zip(targets, rng.integers(0, 2, columns), strict=True)]
    names = sorted(set(targets))
    parts = data.draw(st.lists(st.integers(0, 4), min_size=len(names), max_size=len(names)).filter(any))
    shares = {name: part / sum(parts) for name, part in zip(names, parts, strict=True)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given_options = options(method, targets, subtasks)
        selection = instsel.select(method, values, budget, quotas=shares, targets=targets, **given_options)
    taken, scores, drivers = naive(method, values, budget, shares, targets, subtasks)
    assert selection.indices.tolist() == taken
    np.testing.assert_allclose(selection.scores, scores, rtol=1e-9, atol=1e-9)
    if method == "sum":
        assert not selection.drivers
    else:
        assert selection.drivers == [int(driver) for driver in drivers]


#                  a    a    b
HAND = np.array([[0.9, 0.7, 0.9],
                 [0.8, 0.8, 0.8],
                 [0.1, 0.2, 0.7],
                 [0.5, 0.1, 0.1]])  # fmt: skip
TARGETS = ["a", "a", "b"]


def test_less_by_hand():
    # a ranks 0, 1 (0.8 each), 3 (0.3), 2 (0.15), b ranks 0, 1, 2, 3. Half of three rows: a has two of them.
    selection = instsel.select("less", HAND, 3, quotas="equal", targets=TARGETS, subtasks=TARGETS)
    assert selection.indices.tolist() == [0, 1, 3]
    assert selection.driven_by.tolist() == [0, 1, 0]
    assert selection.scores == pytest.approx([0.8, 0.8, 0.3])
    # Without quotas b, whose influences are larger, is served first and third.
    assert less.select(HAND, 3, subtasks=TARGETS).driven_by.tolist() == [1, 0, 1]


def test_another_targets_rows_do_not_count_in_the_mean_of_bids():
    # Both targets want row 0. b takes row 1 in its place, and a's mean is that of row 0 alone.
    selection = instsel.select("bids", HAND, 4, quotas={"a": 0.5, "b": 0.5}, targets=TARGETS, normalize=False)
    assert selection.indices.tolist()[:3] == [0, 1, 3]
    # Row 3 at the second turn of a: 0.5 - 0.9 in its first column, against 0.1 - 0.9 and 0.2 - 0.7 of row 2.
    assert selection.scores[2] == pytest.approx(0.5 - 0.9)
    assert selection.driven_by.tolist()[:3] == [0, 2, 0]


@pytest.mark.parametrize("budget", range(9))
def test_equal_quotas_of_round_robin_are_round_robin(budget):
    values = np.random.default_rng(3).normal(size=(8, 5))
    targets = ["b", "a", "b", "c", "a"]
    first = instsel.select("round_robin", values, budget, quotas="equal", targets=targets)
    second = round_robin.select(values, budget, targets=targets)
    for name in ("indices", "scores", "driven_by"):
        assert getattr(first, name).tolist() == getattr(second, name).tolist()


@pytest.mark.parametrize("method", METHODS)
def test_quotas_of_one_target_are_the_method(method):
    values, targets = np.random.default_rng(1).normal(size=(12, 3)), ["t"] * 3
    given_options = options(method, targets, ["s1", "s2", "s1"])
    plain = instsel.select(method, values, 7, **given_options)
    by_quota = instsel.select(method, values, 7, quotas={"t": 1.0}, targets=targets, **given_options)
    assert by_quota.indices.tolist() == plain.indices.tolist()
    assert by_quota.scores.tolist() == plain.scores.tolist() and by_quota.drivers == plain.drivers


@pytest.mark.parametrize("method", METHODS)
def test_equal_quotas_of_fewer_rows_are_the_beginning_of_those_of_more(method):
    values, targets = np.random.default_rng(2).normal(size=(15, 6)), list("abcabc")
    given_options = options(method, targets, targets)
    whole = instsel.select(method, values, 15, quotas="equal", targets=targets, **given_options)
    assert sorted(whole.indices.tolist()) == list(range(15))
    for budget in range(15):
        part = instsel.select(method, values, budget, quotas="equal", targets=targets, **given_options)
        assert part.indices.tolist() == whole.indices[:budget].tolist()


def test_a_target_without_a_share_has_no_rows_and_is_not_looked_at():
    values = np.array([[1.0, 5.0], [2.0, 5.0], [0.0, 5.0]])
    # b's column does not vary, which bids could not choose by.
    with pytest.warns(UserWarning, match="drops the attribution columns without deviation"):
        selection = instsel.select("bids", values, 2, quotas={"a": 1, "b": 0}, targets=["a", "b"])
    assert selection.driven_by.tolist() == [0, 0]
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"no column of \[1\] varies|none of \[1\] does"):
        instsel.select("bids", values, 2, quotas="equal", targets=["a", "b"])


@pytest.mark.parametrize(
    ("shares", "budget", "counts"),
    [
        ([0.29, 0.71], 100, [29, 71]),
        ([0.5, 0.5], 3, [2, 1]),
        ([1 / 3] * 3, 7, [3, 2, 2]),
        ([0.1, 0.2, 0.7], 4, [0, 1, 3]),
        ([0.0, 1.0], 5, [0, 5]),
        ([0.4, 0.6], 0, [0, 0]),
    ],
)
def test_counts_are_by_largest_remainder(shares, budget, counts):
    assert quotas.quota_counts(shares, budget).tolist() == counts


def test_turns_last_as_long_as_counts():
    assert list(quotas.turns(np.array([2, 0, 4]))) == [0, 2, 0, 2, 2, 2]
    assert list(quotas.turns(np.array([], np.int64))) == []


def test_a_ranked_picker_passes_over_what_is_taken():
    picker = RankedPicker(np.array([2, 0, 1]), np.array([3.0, 2.0, 1.0]), None)
    assert picker.pick(np.array([False, False, True])) == (0, 2.0, None)
    assert picker.pick(np.array([True, False, True])) == (1, 1.0, None)


@pytest.mark.parametrize(
    ("method", "shares", "given_options", "message"),
    [
        ("less", {"a": 0.5, "c": 0.5}, {"targets": TARGETS}, "a share for 'c', which is no target; they are a, b"),
        ("less", {"a": 1.0}, {"targets": TARGETS}, r"no share for 'b'; write 0 if it is to have no rows"),
        ("less", {"a": 0.5, "b": 0.6}, {"targets": TARGETS}, r"sum to 1, got .*, in all 1.1"),
        ("less", {"a": -0.5, "b": 1.5}, {"targets": TARGETS}, "must be at least 0"),
        ("less", {"a": float("nan"), "b": 1.0}, {"targets": TARGETS}, "must be at least 0"),
        ("less", "fair", {"targets": TARGETS}, "quotas must be 'equal' or a share for each target, got 'fair'"),
        ("less", "equal", {}, r"quotas need targets=, one label a column; got \['subtasks'\]"),
        ("less", "equal", {"targets": ["a", "b"]}, "targets must have one label for each of 3 columns, got 2"),
        ("less", "equal", {"targets": TARGETS, "rule": "sum"}, "less has no option rule='sum'"),
        ("less", "equal", {"targets": TARGETS, "groups": []}, "less has no option groups="),
    ],
)
def test_what_does_not_fit_is_rejected(method, shares, given_options, message):
    with pytest.raises(ValueError, match=message):
        instsel.select(method, HAND, 2, quotas=shares, subtasks=TARGETS, **given_options)


def test_methods_that_read_no_columns_have_no_quotas():
    with pytest.raises(ValueError, match="quotas are for methods that read columns: bids, .*; got 'random'"):
        instsel.select("random", 5, 2, quotas="equal", targets=TARGETS, seed=0)
    with pytest.raises(ValueError, match="less needs subtasks="):
        instsel.select("less", HAND, 2, quotas="equal", targets=TARGETS)
    with pytest.raises(ValueError, match="bids has no option targets="):
        instsel.select("bids", HAND, 2, targets=TARGETS)


def entry(method, **keys):
    return TypeAdapter(AnyMethod).validate_python({"method": method, **keys})


def test_an_entry_goes_before_the_studys_quotas():
    targets = ["sums", "cities"]
    assert entry("bids").quota_shares(None, targets) is None
    assert entry("bids").quota_shares("equal", targets) == {"cities": 0.5, "sums": 0.5}
    assert entry("bids", quotas="none").quota_shares("equal", targets) is None
    assert entry("bids", targets=["sums"]).quota_shares("equal", targets) == {"sums": 1.0}
    shares = entry("bm25", quotas={"sums": 0.75, "cities": 0.25}).quota_shares("equal", targets)
    assert list(shares.items()) == [("cities", 0.25), ("sums", 0.75)]
    assert entry("random").quota_shares("equal", targets) is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"quotas": {"sums": 1.0}}, "'bids': quotas have no share for 'cities'"),
        ({"targets": ["sums"], "quotas": {"sums": 0.5, "cities": 0.5}}, "'cities', which is no target; they are sums"),
        ({"mixture": "pool", "quotas": "equal"}, "'bids' has quotas and a mixture, which are two ways"),
    ],
)
def test_an_entry_that_contradicts_itself_is_rejected(keys, message):
    with pytest.raises(ValueError, match=message):
        entry("bids", **keys).quota_shares(None, ["sums", "cities"])


def test_a_choice_without_quotas_depends_on_what_it_did_before_there_were_any():
    for name, method in REGISTRY.methods.items():
        if issubclass(method, ColumnMethod):
            assert "quotas" not in entry(name).settings(), name
    assert entry("bids").settings() == {"version": 1, "method": "bids", "targets": None, "normalize": True}


def test_prompts_of_a_target_that_share_no_word_cannot_choose():
    scores = bm25.score(["figs and apples", "the train"], ["figs", "zebra"])
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"none of \[1\] does"):
        bm25.pickers(scores, [np.array([0]), np.array([1])], 2)
    assert isinstance(bids.pickers(HAND, [np.array([0])], 2), list)
