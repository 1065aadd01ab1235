import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel import stats
from instsel.arrays import row_blocks
from instsel.stats import (
    MEAN,
    Bootstrap,
    Interval,
    adjusted_p_values,
    compare,
    holm,
    non_inferiority,
    not_told_apart,
    outcome,
    paired_bootstrap,
    rank_correlation,
)

OPTIONS = {"samples": 2000, "confidence": 0.95, "seed": 0}


def losses(seed: int, lengths: dict[str, int], shift: float = 0.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {target: rng.gamma(2.0, 1.0, length) + shift for target, length in lengths.items()}


def test_pairs_cancel_what_both_runs_share() -> None:
    baseline = losses(0, {"a": 50, "b": 20})
    method = {target: values - 0.25 for target, values in baseline.items()}
    for interval in paired_bootstrap(method, baseline, **OPTIONS).values():
        assert (interval.difference, interval.low, interval.high) == pytest.approx((-0.25, -0.25, -0.25))


def test_targets_weigh_the_same_in_the_mean_and_come_in_order() -> None:
    method = {"b": [2.0] * 30, "a": [1.0]}
    got = paired_bootstrap(method, {"a": [0.0], "b": [0.0] * 30}, **OPTIONS)
    assert list(got) == ["b", "a", MEAN]
    assert got[MEAN] == Interval(1.5, 1.5, 1.5)


def test_agrees_with_a_plain_bootstrap() -> None:
    method, baseline = losses(1, {"a": 40, "b": 15}), losses(2, {"a": 40, "b": 15})
    got = paired_bootstrap(method, baseline, samples=20_000, confidence=0.9, seed=3)
    rng = np.random.default_rng(9)
    means: dict[str, list[float]] = {"a": [], "b": []}
    for _ in range(5000):
        for target, drawn in means.items():
            rows = rng.integers(len(method[target]), size=len(method[target]))
            drawn.append(float(np.mean([method[target][row] - baseline[target][row] for row in rows])))
    means[MEAN] = [(a + b) / 2 for a, b in zip(means["a"], means["b"], strict=True)]
    for target, drawn in means.items():
        # The 5th and 95th percentile of 5,000 draws are sure to about 0.03 of their deviation.
        slack = 0.12 * np.std(drawn)
        assert got[target].low == pytest.approx(np.quantile(drawn, 0.05), abs=slack)
        assert got[target].high == pytest.approx(np.quantile(drawn, 0.95), abs=slack)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        pairs = {"a": rng.normal(0.1, 1.0, 60)}
        interval = paired_bootstrap(pairs, {"a": np.zeros(60)}, samples=400, confidence=0.8, seed=trial)["a"]
        hits += interval.low <= 0.1 <= interval.high
    assert 0.72 < hits / 300 < 0.87


def test_a_target_keeps_its_interval_when_others_join_and_seeds_differ() -> None:
    method, baseline = losses(1, {"a": 40, "b": 15}), losses(2, {"a": 40, "b": 15})
    both = paired_bootstrap(method, baseline, **OPTIONS)
    alone = paired_bootstrap({"b": method["b"]}, {"b": baseline["b"]}, **OPTIONS)
    assert alone["b"] == both["b"] == alone[MEAN]
    assert paired_bootstrap(method, baseline, **OPTIONS) == both
    assert paired_bootstrap(method, baseline, samples=2000, confidence=0.95, seed=1)["b"] != both["b"]


def test_equal_losses_of_two_targets_are_drawn_independently() -> None:
    values = losses(4, {"a": 100})["a"]
    got = paired_bootstrap({"a": values, "b": values}, {"a": 0 * values, "b": 0 * values}, **OPTIONS)
    width = got[MEAN].high - got[MEAN].low
    assert width == pytest.approx((got["a"].high - got["a"].low) / np.sqrt(2), rel=0.1)


def test_many_examples_and_samples_are_drawn_in_blocks() -> None:
    values = losses(6, {"a": 3000})["a"]
    interval = paired_bootstrap({"a": values}, {"a": 0 * values}, samples=3000, confidence=0.95, seed=0)["a"]
    error = values.std() / np.sqrt(3000)
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


@pytest.mark.parametrize(
    ("method", "baseline", "options", "message"),
    [
        ({}, {}, {}, "at least one target"),
        ({"a": [1.0]}, {"b": [1.0]}, {}, "same targets"),
        ({"mean": [1.0]}, {"mean": [1.0]}, {}, "none named 'mean'"),
        ({"a": [1.0, 2.0]}, {"a": [1.0]}, {}, r"target a.*\(2,\) and \(1,\)"),
        ({"a": []}, {"a": []}, {}, "target a"),
        ({"a": [[1.0]]}, {"a": [[1.0]]}, {}, "target a"),
        ({"a": [1.0, np.nan]}, {"a": [1.0, 1.0]}, {}, "target a.*example 1"),
        ({"a": [1.0]}, {"a": [1.0]}, {"samples": 0}, "samples must be at least 1, got 0"),
        ({"a": [1.0]}, {"a": [1.0]}, {"confidence": 1.0}, "confidence .* 1.0"),
        ({"a": [1.0]}, {"a": [1.0]}, {"confidence": 95}, "confidence .* 95"),
        ({"a": [1.0]}, {"a": [1.0]}, {"seed": -1}, "seed"),
    ],
)
def test_bad_arguments_name_what_is_wrong(method: dict, baseline: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(method, baseline, **{**OPTIONS, **options})


BOOTSTRAP = Bootstrap(2000, 0.95, 0)
REALS = st.floats(-9, 9, allow_nan=False)
P_VALUES = st.lists(st.floats(0, 1), max_size=8)


@st.composite
def studies(draw, *, values=REALS, least: int = 2) -> dict[str, dict[str, np.ndarray]]:
    """Some methods with a few runs each, on one or two targets of a few items."""
    items = {name: draw(st.integers(1, 5)) for name in ["a", "bb"][: draw(st.integers(1, 2))]}
    names = ["first", "second", "third"][: draw(st.integers(least, 3))]
    return {name: {target: np.array(draw(st.lists(st.lists(values, min_size=count, max_size=count),
                                                  min_size=runs, max_size=runs)))
                   for target, count in items.items()}
            for name in names for runs in [draw(st.integers(1, 3))]}  # fmt: skip


def naive_differences(method: str, baseline: str, study: dict, bootstrap: Bootstrap) -> dict[str, list[float]]:
    """The resampled differences by target and mean, one number at a time, from the definition of `compare`."""

    def generator(*key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(bootstrap.seed, spawn_key=key))

    targets = list(study[method])
    runs = {}
    for name in (method, baseline):
        count = len(study[name][targets[0]])
        runs[name] = generator(256, *name.encode()).integers(count, size=(bootstrap.samples, count))
    items = {}
    for target in targets:
        count = study[method][target].shape[1]
        items[target] = generator(*target.encode()).integers(count, size=(bootstrap.samples, count))
    differences: dict[str, list[float]] = {target: [] for target in targets}
    for sample in range(bootstrap.samples):
        for target in targets:
            means = []
            for name in (method, baseline):
                drawn = [study[name][target][run, item] for run in runs[name][sample] for item in items[target][sample]]
                means.append(sum(drawn) / len(drawn))
            differences[target].append(means[0] - means[1])
    return {**differences, MEAN: [sum(values) / len(values) for values in zip(*differences.values(), strict=True)]}


@settings(max_examples=25, deadline=None)
@given(studies(), st.integers(0, 5))
def test_seeds_and_items_are_resampled_as_in_a_plain_loop(study, seed):
    bootstrap = Bootstrap(50, 0.9, seed)
    baseline = list(study)[-1]
    for name, comparison in compare(study, baseline, bootstrap).items():
        for target, drawn in naive_differences(name, baseline, study, bootstrap).items():
            interval = comparison.intervals[target]
            assert interval.low == pytest.approx(np.quantile(drawn, 0.05), abs=1e-9)
            assert interval.high == pytest.approx(np.quantile(drawn, 0.95), abs=1e-9)
            means = [study[name][t].mean() - study[baseline][t].mean() for t in study[name] if target in (t, MEAN)]
            assert interval.difference == pytest.approx(np.mean(means), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(studies(values=st.sampled_from([0.0, 1.0])), st.integers(0, 5))
def test_a_p_value_is_twice_the_smaller_tail_and_equal_answers_are_exactly_equal(study, seed):
    bootstrap = Bootstrap(60, 0.9, seed)
    baseline = list(study)[0]
    for name, comparison in compare(study, baseline, bootstrap).items():
        for target, drawn in naive_differences(name, baseline, study, bootstrap).items():
            # The mean over two targets adds two roundings.
            below = sum(difference <= 1e-12 for difference in drawn)
            above = sum(difference >= -1e-12 for difference in drawn)
            expected = min(1.0, 2 * (min(below, above) + 1) / 61)
            tolerance = 0 if target != MEAN else 4 / 61
            assert comparison.p_values[target] == pytest.approx(expected, abs=tolerance + 1e-12)


@settings(max_examples=40, deadline=None)
@given(studies())
def test_a_comparison_is_the_same_the_other_way_round_and_beside_others(study):
    bootstrap = Bootstrap(100, 0.9, 1)
    first, second, *_ = study
    comparison = compare(study, first, bootstrap)[second]
    assert compare({name: study[name] for name in (second, first)}, first, bootstrap)[second] == comparison
    turned = compare(study, second, bootstrap)[first]
    for target, interval in comparison.intervals.items():
        assert turned.intervals[target].difference == pytest.approx(-interval.difference, abs=1e-9)
        assert turned.intervals[target].low == pytest.approx(-interval.high, abs=1e-9)
    assert turned.p_values == comparison.p_values
    one = {name: {"a": by_target["a"]} for name, by_target in study.items()}
    assert compare(one, first, bootstrap)[second].intervals["a"] == comparison.intervals["a"]


@settings(max_examples=40, deadline=None)
@given(studies())
def test_a_p_value_fits_its_interval(study):
    for comparison in compare(study, list(study)[0], BOOTSTRAP).values():
        for target, interval in comparison.intervals.items():
            p_value = comparison.p_values[target]
            assert 0 < p_value <= 1
            # Quantiles lie between two resampled differences, so that a p-value near the level may go either way.
            if interval.low > 1e-9 or interval.high < -1e-9:
                assert p_value <= BOOTSTRAP.level + 0.003
            elif interval.low < -1e-9 and interval.high > 1e-9:
                assert p_value >= BOOTSTRAP.level - 0.003


def test_one_run_a_side_is_the_paired_bootstrap():
    method, baseline = losses(1, {"a": 40, "b": 15}), losses(2, {"a": 40, "b": 15})
    study = {
        name: {target: values[None] for target, values in by_target.items()}
        for name, by_target in (("bids", method), ("random", baseline))
    }
    assert compare(study, "random", BOOTSTRAP)["bids"].intervals == paired_bootstrap(method, baseline, **OPTIONS)


def test_the_items_of_a_target_are_drawn_as_in_every_version():
    method, baseline = losses(1, {"asdiv": 40}), losses(2, {"asdiv": 40})
    differences = method["asdiv"] - baseline["asdiv"]
    generator = np.random.default_rng(np.random.SeedSequence(0, spawn_key=tuple(b"asdiv")))
    drawn = differences[generator.integers(40, size=(2000, 40))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    expected = Interval(float(differences.mean()), float(low), float(high))
    # To the last bit.
    assert paired_bootstrap(method, baseline, **OPTIONS)["asdiv"] == expected


def test_the_size_of_a_block_changes_no_bit(monkeypatch):
    rng = np.random.default_rng(0)
    study = {name: {"a": rng.gamma(2.0, 1.0, (runs, 17))} for name, runs in (("bids", 3), ("random", 2), ("less", 1))}
    whole = compare(study, "random", BOOTSTRAP)
    monkeypatch.setattr(stats, "row_blocks", lambda rows, size: row_blocks(rows, size, block_bytes=1000))
    assert compare(study, "random", BOOTSTRAP) == whole


def test_a_method_named_like_a_target_has_other_random_numbers():
    values = np.arange(4.0)[:, None] + np.zeros((4, 4))
    study = {"a": {"a": values + values.T}, "base": {"a": np.zeros((1, 4))}}
    # Were runs and items drawn alike, the resampled means would vary as twice one of them: 4 times its variance.
    interval = compare(study, "base", Bootstrap(4000, 0.6826, 0))["a"].intervals["a"]
    deviation = (interval.high - interval.low) / 2
    assert deviation == pytest.approx(np.sqrt(2 * np.arange(4).var() / 4), rel=0.15)


def test_with_several_seeds_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = {"nested": 0, "one seed": 0, "false": 0}
    trials = 300
    for trial in range(trials):
        items = rng.normal(0, 1, 40)
        runs = {name: items + rng.normal(0, 0.3, (6, 1)) + rng.normal(0, 0.3, (6, 40)) for name in ("bids", "random")}
        study = {name: {"a": values} for name, values in runs.items()}
        alone = {name: {"a": values[:1]} for name, values in runs.items()}
        bootstrap = Bootstrap(200, 0.8, trial)
        comparison = compare(study, "random", bootstrap)["bids"]
        hits["nested"] += comparison.intervals["a"].low <= 0 <= comparison.intervals["a"].high
        interval = compare(alone, "random", bootstrap)["bids"].intervals["a"]
        hits["one seed"] += interval.low <= 0 <= interval.high
        hits["false"] += comparison.p_values["a"] <= bootstrap.level
    # Six seeds a side: 5/6 of the variance between them. With one seed the interval knows nothing of it.
    assert 0.68 < hits["nested"] / trials < 0.87
    assert hits["one seed"] / trials < 0.35
    assert 0.13 < hits["false"] / trials < 0.32


def rejected_by_holm(p_values: list[float], level: float) -> set[int]:
    """The procedure as Holm describes it: reject in order of size until one is too large."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    steps = zip(order, range(len(order), 0, -1), strict=True)
    return {index for index, _ in itertools.takewhile(lambda step: p_values[step[0]] * step[1] <= level, steps)}


@given(P_VALUES, st.floats(0.001, 0.999))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, level):
    adjusted = holm(p_values)
    assert {index for index, value in enumerate(adjusted) if value <= level} == rejected_by_holm(p_values, level)


@given(P_VALUES, st.randoms(use_true_random=False))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(p_values, random):
    adjusted = holm(p_values)
    values = np.array(p_values)
    assert (adjusted >= values).all() and (adjusted <= np.minimum(1, len(values) * values)).all()
    assert (np.diff(adjusted[np.argsort(values, kind="stable")]) >= 0).all()
    order = list(range(len(values)))
    random.shuffle(order)
    np.testing.assert_array_equal(holm(values[order]), adjusted[order])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).tolist() == [] and holm([0.7, 0.8]).tolist() == [1.0, 1.0]
    for bad in ([1.5], [-0.1], [float("nan")], [[0.5]]):
        with pytest.raises(ValueError, match="p_values"):
            holm(bad)


def test_p_values_are_adjusted_over_the_methods_of_each_target():
    study = {
        "random": {"a": np.zeros((1, 30)), "b": np.zeros((1, 30))},
        "bids": {"a": np.ones((1, 30)), "b": np.zeros((1, 30))},
        "less": {"a": np.ones((1, 30)), "b": np.ones((1, 30))},
    }
    adjusted = adjusted_p_values(compare(study, "random", BOOTSTRAP))
    least = 2 / 2001
    assert adjusted["bids"] == pytest.approx({"a": 2 * least, "b": 1.0, MEAN: 2 * least})
    assert adjusted["less"] == pytest.approx({"a": 2 * least, "b": 2 * least, MEAN: 2 * least})
    assert adjusted_p_values({}) == {}


def test_the_best_and_what_is_not_told_apart_from_it():
    rng = np.random.default_rng(0)
    shared = rng.gamma(2.0, 1.0, 60)
    study = {
        "far": {"a": shared[None] + 1.0 + rng.normal(0, 0.2, (1, 60))},
        "near": {"a": shared[None] + rng.normal(0.01, 0.2, (1, 60))},
        "best": {"a": shared[None] + rng.normal(0, 0.2, (1, 60)) - 0.01},
    }
    assert not_told_apart(study, BOOTSTRAP) == ["best", "near"]
    turned = {name: {"a": -values["a"]} for name, values in study.items()}
    assert not_told_apart(turned, BOOTSTRAP, higher_is_better=True) == ["best", "near"]
    assert not_told_apart(study, BOOTSTRAP, higher_is_better=True) == ["far"]
    assert not_told_apart({"far": study["far"]}, BOOTSTRAP) == ["far"] and not_told_apart({}, BOOTSTRAP) == []


def test_the_set_is_what_holm_leaves_at_the_level():
    sizes = set()
    for trial in range(60):
        rng = np.random.default_rng(trial)
        shared = rng.normal(0, 1, 25)
        study = {f"m{number}": {"a": shared[None] + rng.normal(0.05 * number, 0.3, (1, 25))} for number in range(5)}
        bootstrap = Bootstrap(400, 0.8, trial)
        order = sorted(study, key=lambda name: study[name]["a"].mean())
        comparisons = compare(study, order[0], bootstrap)
        p_values = [comparisons[name].p_values[MEAN] for name in order[1:]]
        rejected = rejected_by_holm(p_values, 0.2)
        expected = [order[0], *(name for index, name in enumerate(order[1:]) if index not in rejected)]
        assert not_told_apart(study, bootstrap) == expected
        sizes.add(len(expected))
    assert len(sizes) > 2


def test_seeds_that_differ_more_than_methods_do_not_tell_them_apart():
    items = np.random.default_rng(0).normal(0, 1, 50)
    study = {
        name: {"a": items + np.array(levels)[:, None]}
        for name, levels in (("bids", [0.0, 0.4, -0.4]), ("less", [0.1, 0.5, -0.3]))
    }
    assert not_told_apart(study, BOOTSTRAP) == ["bids", "less"]
    means = {name: {"a": by_target["a"].mean(axis=0)[None]} for name, by_target in study.items()}
    assert not_told_apart(means, BOOTSTRAP) == ["bids"]


@settings(max_examples=40, deadline=None)
@given(studies(least=1))
def test_the_set_starts_with_the_best_and_has_all_that_equal_it(study):
    means = {name: np.mean([values.mean(axis=0).mean() for values in study[name].values()]) for name in study}
    twin = {**study, "twin": study["first"]}
    members = not_told_apart(twin, Bootstrap(100, 0.95, 0))
    assert means.get(members[0], means["first"]) == min(means.values())
    assert ("first" in members) >= (members[0] == "twin")
    if len(study["first"]["a"]) == 1:
        assert ("first" in members) == ("twin" in members)


@pytest.mark.parametrize(
    ("difference", "p_value", "higher", "expected"),
    [
        (-0.1, 0.05, False, "better"),
        (0.1, 0.05, False, "worse"),
        (0.1, 0.01, True, "better"),
        (-0.1, 0.01, True, "worse"),
        (-0.1, 0.051, False, "undecided"),
        (0.0, 0.01, False, "undecided"),
    ],
)
def test_a_method_is_better_or_worse_by_its_p_value(difference, p_value, higher, expected):
    assert outcome(difference, p_value, BOOTSTRAP.level, higher_is_better=higher) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.5, 0.1, "non-inferior"),
        (0.05, 0.2, "non-inferior"),
        (0.1, 0.3, "undecided"),
        (-0.5, 0.5, "undecided"),
        (0.21, 0.5, "worse"),
        (0.2, 0.5, "undecided"),
    ],
)
def test_a_method_is_non_inferior_where_its_interval_is_within_the_margin(low, high, expected):
    middle = (low + high) / 2
    assert non_inferiority(middle, low, high, 0.2) == expected
    assert non_inferiority(-middle, -high, -low, 0.2, higher_is_better=True) == expected


@pytest.mark.parametrize("numbers", [(0, 1, -1, 0.1), (0, -1, 1, -0.1), (float("nan"), -1, 1, 0), (0, 0, np.inf, 1)])
def test_non_inferiority_needs_an_interval_and_a_margin(numbers):
    with pytest.raises(ValueError, match="margin"):
        non_inferiority(*numbers)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), max_size=8))
def test_the_rank_correlation_is_that_of_the_ranks(pairs):
    left, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    got = rank_correlation(left, right)
    assert got.runs == len(pairs)
    if len(pairs) < 3 or len(set(left)) == 1 or len(set(right)) == 1:
        assert got.correlation is None
        return

    def ranks(values: list[int]) -> list[float]:
        return [np.mean([i for i, other in enumerate(sorted(values)) if other == value]) for value in values]

    assert got.correlation == pytest.approx(np.corrcoef(ranks(left), ranks(right))[0, 1])


@pytest.mark.parametrize("lists", [([1, 2], [1, 2, 3]), ([[1, 2]], [[1, 2]]), ([1, 2, np.nan], [1, 2, 3])])
def test_a_rank_correlation_needs_two_finite_numbers_a_run(lists):
    with pytest.raises(ValueError, match="expected"):
        rank_correlation(*lists)


def test_the_resamples_that_a_table_needs():
    assert BOOTSTRAP.samples_needed(1) == 39 and BOOTSTRAP.samples_needed(3) == 119
    assert Bootstrap(100, 0.9, 0).samples_needed(2) == 39
    for comparisons, confidence in itertools.product((1, 3, 7), (0.8, 0.9, 0.95, 0.99)):
        needed = Bootstrap(1, confidence, 0).samples_needed(comparisons)
        level = Bootstrap(1, confidence, 0).level
        assert holm([2 / (needed + 1)] * comparisons)[0] <= level < holm([2 / needed] * comparisons)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bids": {"a": [1.0, 2.0]}}, "target a"),
        ({"bids": {"a": [[1.0]]}}, r"target a.*\(1,\) and \(2,\)"),
        ({"bids": {"a": [[1.0, 2.0], [1.0, np.inf]]}}, "target a: values of bids .* example 1"),
        ({"bids": {"b": [[1.0, 2.0]]}}, "bids and random must have the same targets"),
        ({"random": {"a": [[1.0, 2.0]], "b": [[1.0]]}, "bids": {"a": [[1.0, 2.0]], "b": [[1.0]] * 2}}, "same runs"),
    ],
)
def test_methods_that_do_not_compare_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        compare({"random": {"a": [[1.0, 2.0]]}, **changes}, "random", BOOTSTRAP)


def test_an_unknown_baseline_is_named():
    with pytest.raises(ValueError, match=r"baseline must be one of \['bids'\], got 'random'"):
        compare({"bids": {"a": [[1.0]]}}, "random", BOOTSTRAP)
