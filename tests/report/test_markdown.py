import pytest

from instsel.report.markdown import comparison_table, composition_table
from instsel.stats import Interval

LOSSES = {
    "random": {"asdiv": 2.5, "nq": 1.0},
    "bids": {"asdiv": 1.5, "nq": 1.25},
    "base": {"asdiv": 4.0, "nq": 4.5},
}
INTERVALS = {
    "bids": {
        "asdiv": Interval(-1.0, -1.306, -0.7),
        "nq": Interval(0.25, -0.001, 0.5),
        "mean": Interval(-0.375, -0.5, -0.25),
    }
}


def test_comparison_shows_base_first_best_in_bold_and_differences_with_intervals() -> None:
    assert comparison_table(LOSSES, INTERVALS, "random") == (
        "| target | base | random | bids |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| asdiv | 4.00 | 2.50 | **1.50** (−1.00 [−1.31, −0.70]) |\n"
        "| nq | 4.50 | **1.00** | 1.25 (0.25 [0.00, 0.50]) |\n"
        "| mean | 4.25 | 1.75 | **1.38** (−0.38 [−0.50, −0.25]) |\n"
    )


def test_comparison_with_more_digits() -> None:
    row = comparison_table(LOSSES, INTERVALS, "random", digits=3).splitlines()[2]
    assert row == "| asdiv | 4.000 | 2.500 | **1.500** (−1.000 [−1.306, −0.700]) |"


def test_equal_best_losses_are_both_bold_and_bars_in_names_are_escaped() -> None:
    table = comparison_table({"random": {"a|b": 1.0}, "less": {"a|b": 1.0}}, {}, "random")
    assert "| a\\|b | **1.00** | **1.00** |" in table


@pytest.mark.parametrize(
    ("losses", "intervals", "baseline", "message"),
    [
        ({}, {}, "random", "'random'"),
        (LOSSES, {}, "rand", "'rand'"),
        ({**LOSSES, "less": {"asdiv": 1.0}}, {}, "random", r"less has \['asdiv'\]"),
        ({"random": {}}, {}, "random", "same targets"),
        (LOSSES, {"less": INTERVALS["bids"]}, "random", "'less'"),
        (LOSSES, {"bids": {"asdiv": Interval(0, 0, 0)}}, "random", r"\['nq', 'mean'\]"),
    ],
)
def test_comparison_names_what_does_not_fit(losses: dict, intervals: dict, baseline: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        comparison_table(losses, intervals, baseline)


def test_composition_orders_sources_by_their_share_of_the_pool() -> None:
    pool = {"piqa": 100, "asdiv": 1800, "boolq": 100}
    assert composition_table({"bids": {"asdiv": 30, "piqa": 10}, "none": {}}, pool) == (
        "| source | pool | bids | none |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| asdiv | 1,800 (90.0%) | 30 (75.0%) | 0 |\n"
        "| boolq | 100 (5.0%) | 0 (0.0%) | 0 |\n"
        "| piqa | 100 (5.0%) | 10 (25.0%) | 0 |\n"
        "| total | 2,000 | 40 | 0 |\n"
    )


@pytest.mark.parametrize("chosen", [{"nowhere": 1}, {"asdiv": 3}])
def test_composition_rejects_rows_the_pool_does_not_have(chosen: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"bids chose .*{next(iter(chosen))}"):
        composition_table({"bids": chosen}, {"asdiv": 2})


def test_many_runs_become_rows_in_order_of_their_mean() -> None:
    losses = {f"run-{number}": {"a": 9.0 - number, "b": 1.0} for number in range(9)}
    interval = Interval(-1.5, -2.0, -1.0)
    lines = comparison_table(losses, {"run-1": dict.fromkeys(["a", "b", "mean"], interval)}, "run-0").splitlines()
    assert lines[0] == "| run | a | b | mean |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| run-{number}" for number in [8, 7, 6, 5, 4, 3, 2, 1, 0]]
    assert lines[2] == "| run-8 | **1.00** | **1.00** | **1.00** |"
    change = "(\N{MINUS SIGN}1.50 [\N{MINUS SIGN}2.00, \N{MINUS SIGN}1.00])"
    assert lines[9] == f"| run-1 | 8.00 {change} | **1.00** {change} | 4.50 {change} |"
