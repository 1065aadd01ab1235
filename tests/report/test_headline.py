"""The sentence that says which methods are best, and the notes on intervals and p-values."""

import pytest

from instsel.report.compared import Results
from instsel.report.headline import headline, interval_note, p_text, seeds_note, significance_note

LOSSES = {"base": 3.0, "random": 2.0, "less": 1.5, "bids": 1.6, "rds": 1.7}


def results_with(best: list[str], p_values: dict[str, float], methods: str = "base random less bids rds") -> Results:
    """Results on one target, `sums`, whose differences and p-values are those of the mean."""
    losses = {name: LOSSES[name] for name in methods.split()}
    baseline = "random" if "random" in losses else "base"
    differences = {name: loss - losses[baseline] for name, loss in losses.items() if name != baseline}
    return Results.model_validate(
        {
            "baseline": baseline,
            "confidence": 0.95,
            "losses": {name: {"sums": loss, "mean": loss} for name, loss in losses.items()},
            "differences": {
                name: {key: {"difference": value, "low": value - 0.1, "high": value + 0.1} for key in ("sums", "mean")}
                for name, value in differences.items()
            },
            "adjusted_p": {name: dict.fromkeys(["sums", "mean"], p_values.get(name, 0.003)) for name in differences},
            "heldout_rows": {"sums": 40},
            "runs": {name: [name] for name in losses},
            "best": best[0] if best else None,
            "not_told_apart": best,
        }
    )


def test_a_best_method_alone_is_named_with_its_difference():
    assert headline(results_with(["less"], {})) == (
        "Best: less, with a mean held-out loss of 1.500, 0.500 below random [−0.600, −0.400]. "
        "Clearly better on 1 of 1 targets, clearly worse on none."
    )


def test_methods_that_are_not_told_apart_are_all_named():
    assert headline(results_with(["less", "bids"], {})) == (
        "Best: less and bids, not told apart, with a mean held-out loss of 1.500 and 1.600; both clearly below random, "
        "by 0.500 and 0.400. less: clearly better on 1 of 1 targets, clearly worse on none; "
        "bids: clearly better on 1 of 1 targets, clearly worse on none."
    )
    assert headline(results_with(["less", "bids", "rds"], {})).startswith(
        "Best: less, bids and rds, not told apart, with a mean held-out loss of 1.500 to 1.700; all clearly below "
        "random, by 0.300 to 0.500. less: "
    )


def test_what_is_not_clearly_below_the_baseline_is_not_said_to_be():
    some = headline(results_with(["less", "bids"], {"bids": 0.2}))
    assert "; of these, only less clearly below random, by 0.500. " in some
    none = headline(results_with(["less", "bids"], {"less": 0.2, "bids": 0.2}))
    assert "; less and bids are not clearly below random. less: clearly better on 0 of 1 targets" in none


def test_the_baseline_may_be_among_the_best():
    assert (
        "Best: less and random, not told apart, with a mean held-out loss of 1.500 and 2.000; less is not clearly "
        in (headline(results_with(["less", "random"], {"less": 0.2})))
    )
    assert headline(results_with(["random"], {})).endswith(": no method beat random.")


def test_of_many_methods_the_first_are_named():
    results = results_with(["less", "bids", "rds"], {})
    many = [*results.not_told_apart, *(f"more-{number}" for number in range(4))]
    losses = {**results.losses, **dict.fromkeys(many[3:], results.losses["rds"])}
    differences = {**results.differences, **dict.fromkeys(many[3:], results.differences["rds"])}
    adjusted = {**results.adjusted_p, **dict.fromkeys(many[3:], results.adjusted_p["rds"])}
    facts = results.model_copy(
        update={"losses": losses, "differences": differences, "adjusted_p": adjusted, "not_told_apart": many}
    )
    assert headline(facts) == (
        "Best: less, bids, rds and 4 more, not told apart, with a mean held-out loss of 1.500 to 1.700; all clearly "
        "below random, by 0.300 to 0.500."
    )


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        ("base bids", "bids is the only method that is evaluated so far, with a mean held-out loss of 1.600, 1.400 "
         "below base [−1.500, −1.300]. Clearly better on 1 of 1 targets, clearly worse on none."),
        ("base random", "random is the only method that is evaluated so far, with a mean held-out loss of 2.000."),
        ("base", "Only the base model is evaluated so far."),
    ],
)  # fmt: skip
def test_a_study_of_at_most_one_trained_method(methods, sentence):
    assert headline(results_with(methods.split()[1:], {}, methods)) == sentence


def test_a_difference_that_is_not_clear_is_said_so():
    text = headline(results_with(["bids"], {"bids": 0.3}, "base bids"))
    assert "base [−1.500, −1.300], which is no clear difference (p 0.300). Clearly better on 0 of 1" in text


def test_a_summary_without_p_values_calls_nothing_clear():
    facts = results_with(["less"], {}).model_copy(update={"adjusted_p": {}, "not_told_apart": []})
    assert facts.outcome("less", "mean") == "undecided"
    assert "Best: less, with a mean held-out loss of 1.500" in headline(facts)


def test_the_note_says_whether_the_interval_is_over_seeds():
    results = results_with(["less"], {}, "base random less")
    assert interval_note(results) == (
        "difference to random with its 95% paired bootstrap interval over held-out rows (sums 40). With a single seed, "
        "the interval does not contain the variance between training seeds."
    )

    def with_runs(**runs):
        return seeds_note(results.model_copy(update={"runs": {"base": ["base"], **runs}}))

    assert with_runs(random=["a", "b"], less=["c", "d"]) == "The interval is over training seeds as well."
    assert "as well; of less, with a single seed, it does not" in with_runs(random=["a", "b"], less=["c"])
    assert seeds_note(results.model_copy(update={"differences": {}})) == ""


def test_p_values_are_written_with_three_decimals():
    assert [p_text(value) for value in (1.0, 0.0496, 0.001, 0.0005)] == ["p 1.000", "p 0.050", "p 0.001", "p < 0.001"]
    assert "at most 5%, adjusted by Holm" in significance_note(results_with(["less"], {}))
