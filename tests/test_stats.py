import numpy as np
import pytest

from instsel.stats import MEAN, Interval, paired_bootstrap

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
