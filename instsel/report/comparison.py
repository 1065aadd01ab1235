"""The part of report.md that compares methods: accuracy, guards, held-out loss."""

from instsel.console import inline
from instsel.report.compared import AccuracyFacts, Compared
from instsel.report.headline import (
    correlation_sentence,
    guard_sentences,
    headline,
    interval_note,
    p_table,
    significance_note,
    value_text,
)
from instsel.report.markdown import comparison_table
from instsel.stats import MEAN, Interval

LOSS_NOTE = "Mean cross-entropy of answer tokens, nats; lower is better."
ACCURACY_NOTE = "Accuracy or another metric of each benchmark on its test items, in points of 100; higher is better."
PROBABILITY_NOTE = "Mean probability of the right option among all options, in points of 100; higher is better."
OTHERS_NOTE = " Of the {share:.0%} of the held-out rows by which no search chose this study."
NO_RESULTS = "Nothing is evaluated yet, or no target has held-out rows."


def comparison_text(results: Compared, title: str, note: str) -> list[str]:
    """Write what methods reach by a measure, and how sure their differences are."""
    if not results.counts:
        return [f"## {title}\n", NO_RESULTS]
    factor, digits = results.measure.factor, results.measure.difference_digits
    values = {
        method: {results.label(target): factor * value for target, value in by_target.items() if target != MEAN}
        for method, by_target in results.values.items()
    }
    differences = {
        method: {
            results.label(target): Interval(factor * each.difference, factor * each.low, factor * each.high)
            for target, each in by_target.items()
        }
        for method, by_target in results.differences.items()
    }
    seeds = [f"{method} is the mean of {len(runs)} runs" for method, runs in results.runs.items() if len(runs) > 1]
    notes = [f"{note} In brackets: {interval_note(results)}"]
    notes += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in seeds]
    # Without the baseline's run there is no difference, and any run can stand for it.
    baseline = results.baseline if results.baseline in values else next(iter(values))
    higher = results.measure.higher_is_better
    excluded = [results.label(target) for target in results.cannot_move]
    table = comparison_table(values, differences, baseline, digits=digits, higher_is_better=higher, excluded=excluded)
    parts = [f"## {title}\n", inline(headline(results)), table, " ".join(notes)]
    return [*parts, p_table(results), significance_note(results)] if results.adjusted_p else parts


def loss_note(share: float | None) -> str:
    """Return what the losses are, and of which rows where a search chose the study by a share of them."""
    return LOSS_NOTE if share is None else LOSS_NOTE + OTHERS_NOTE.format(share=1 - share)


def accuracy_text(accuracy: AccuracyFacts) -> list[str]:
    """Write what methods reach on benchmarks, what they do to guards, and whether the loss says the same."""
    parts = comparison_text(accuracy, "Accuracy", ACCURACY_NOTE) if accuracy.scores else []
    if accuracy.probability is not None:
        parts += comparison_text(accuracy.probability, "Probability of the right option", PROBABILITY_NOTE)
    if accuracy.guards:
        scores = ", ".join(
            f"{guard} {value_text(score, accuracy.measure)}" for guard, score in accuracy.base_guards.items()
        )
        parts += ["## Guards\n", f"Base model: {scores}.", *(inline(each) for each in guard_sentences(accuracy))]
    if sentence := correlation_sentence(accuracy):
        parts += ["## Loss against accuracy\n", inline(sentence)]
    return parts
