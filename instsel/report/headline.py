"""What results say, in sentences: which methods are best, and what an interval and a p-value mean here."""

from collections.abc import Sequence

from instsel.report.compared import AccuracyFacts, Compared, Measure
from instsel.report.markdown import BASE, decimal, markdown_table, percent
from instsel.stats import MEAN, Interval

MOST_NAMED = 4
"""Methods that a sentence names; of more, the first three."""

LEAST_P = 0.001


def headline(results: Compared) -> str:
    """Say which methods are best and by how much: all that are not told apart from the one of the lowest mean."""
    best, baseline = results.best, results.baseline
    if best is None:
        return "Only the base model is evaluated so far."
    if not results.judged:
        return "No target can move at this model and budget (Headroom), so no method is called better or worse."
    if len(results.not_told_apart) > 1:
        return _several(results, results.not_told_apart)
    measure = results.measure
    mean = f"with a mean {measure.name} of {value_text(results.values[best][MEAN], measure)}"
    only = len(results.values) - (BASE in results.values) == 1
    sentence = f"{best} is the only method that is evaluated so far, {mean}" if only else f"Best: {best}, {mean}"
    if best == baseline and not only:
        return f"{sentence}: no method beat {baseline}."
    if best not in results.differences:
        return f"{sentence}."
    interval = results.differences[best][MEAN]
    p_value = results.adjusted_p.get(best, {}).get(MEAN)
    doubt = "" if p_value is None else f" ({p_text(p_value)})"
    unclear = f", which is no clear difference{doubt}" if results.outcome(best, MEAN) == "undecided" else ""
    by_target = _by_target(results, best)
    return (
        f"{sentence}, {value_text(abs(interval.difference), measure)} {'below' if interval.difference < 0 else 'above'}"
        f" {baseline} [{value_text(interval.low, measure)}, {value_text(interval.high, measure)}]{unclear}. "
        f"{by_target[0].upper()}{by_target[1:]}."
    )


def _several(results: Compared, members: Sequence[str]) -> str:
    means = _numbers([results.values[name][MEAN] for name in members], results.measure)
    sentences = [f"Best: {_names(members)}, not told apart, with a mean {results.measure.name} of {means}"]
    compared = [name for name in members if name in results.differences]
    if compared:
        sentences[0] += f"; {_relation(results, members, compared)}"
    if len(compared) < MOST_NAMED:
        by_target = "; ".join(f"{name}: {_by_target(results, name)}" for name in compared)
        sentences += [by_target] if by_target else []
    return ". ".join(sentences) + "."


def _relation(results: Compared, members: Sequence[str], compared: Sequence[str]) -> str:
    """Say which of the methods are clearly better than the baseline, which may be one of the members itself."""
    side = "above" if results.measure.higher_is_better else "below"
    better = [name for name in compared if results.outcome(name, MEAN) == "better"]
    if not better:
        return f"{_names(compared)} {'is' if len(compared) == 1 else 'are'} not clearly {side} {results.baseline}"
    differences = _numbers([abs(results.differences[name][MEAN].difference) for name in better], results.measure)
    everyone = "both" if len(members) == 2 else "all"
    subject = everyone if len(better) == len(members) else f"of these, only {_names(better)}"
    return f"{subject} clearly {side} {results.baseline}, by {differences}"


def _by_target(results: Compared, name: str) -> str:
    targets = results.judged
    better, worse = (
        [target for target in targets if results.outcome(name, target) == kind] for kind in ("better", "worse")
    )
    return f"clearly better on {len(better)} of {len(targets)} targets, clearly worse on {', '.join(worse) or 'none'}"


def _names(names: Sequence[str]) -> str:
    shown = list(names) if len(names) <= MOST_NAMED else [*names[: MOST_NAMED - 1], f"{len(names) - 3} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _numbers(values: Sequence[float], measure: Measure) -> str:
    """Write up to two numbers, or the smallest and the largest of more."""
    if len(values) <= 2:
        return " and ".join(value_text(value, measure) for value in values)
    return f"{value_text(min(values), measure)} to {value_text(max(values), measure)}"


def value_text(value: float, measure: Measure) -> str:
    """Write a value of a measure."""
    return decimal(measure.factor * value, measure.digits)


def interval_text(interval: Interval | None, measure: Measure) -> str:
    """Write a difference with its interval; nothing where there is none."""
    if interval is None:
        return ""
    difference, low, high = (
        decimal(measure.factor * value, measure.difference_digits)
        for value in (interval.difference, interval.low, interval.high)
    )
    return f"{difference} [{low}, {high}]"


def interval_note(results: Compared) -> str:
    """Say what the differences and their intervals are."""
    counts = ", ".join(f"{target} {count}" for target, count in results.counts.items())
    note = (
        f"difference to {results.baseline} with its {percent(results.confidence)} paired bootstrap interval over "
        f"{results.measure.items} ({counts})."
    )
    if results.cannot_move and results.judged:
        note += f" Left out of the mean and of verdicts, as nothing moves them: {', '.join(results.cannot_move)}."
    return f"{note} {seeds_note(results)}".strip()


def guard_sentences(accuracy: AccuracyFacts) -> list[str]:
    """Say of each method which guards it harms, and of which that cannot be ruled out."""
    sentences = []
    for method, by_guard in accuracy.guards.items():
        parts = []
        for judgement, said in (("worse", "worse than the base model on"), ("undecided", "undecided on")):
            named = [
                f"{guard} ({interval_text(facts.difference, accuracy.measure)})"
                for guard, facts in by_guard.items()
                if facts.judgement == judgement
            ]
            parts += [f"{said} {_names(named)}"] if named else []
        sentences.append(f"Guards, {method}: {'; '.join(parts) or 'non-inferior on all'}.")
    return sentences


def correlation_sentence(accuracy: AccuracyFacts) -> str:
    """Say how far the held-out loss of the trained runs orders them as their accuracy does; empty if unknown."""
    known = {
        target: spearman.correlation
        for target, spearman in accuracy.loss_correlation.items()
        if spearman.correlation is not None
    }
    if not known:
        return ""
    runs = next(iter(accuracy.loss_correlation.values())).runs
    listed = ", ".join(f"{target} {decimal(value)}" for target, value in known.items())
    return (
        f"Spearman's rank correlation of held-out loss and accuracy over {runs} trained runs: {listed}. Near "
        f"{decimal(-1, 0)} the loss tells who is better; near 0 it does not."
    )


def seeds_note(results: Compared) -> str:
    """Say whether intervals are over training seeds too; nothing where no methods are compared."""
    trained = {name: len(runs) for name, runs in results.runs.items() if name != BASE}
    single = [name for name, runs in trained.items() if runs == 1]
    if not results.differences or not trained:
        return ""
    if len(single) == len(trained):
        return "With a single seed, the interval does not contain the variance between training seeds."
    if not single:
        return "The interval is over training seeds as well."
    return (
        f"The interval is over training seeds as well; of {_names(single)}, with a single seed, it does not contain "
        "the variance between training seeds."
    )


def significance_note(results: Compared) -> str:
    """Say when a method is called better or worse."""
    return (
        f"A difference is clear, for better or worse, where its p-value is at most {percent(results.level)}, adjusted "
        "by Holm over the methods of a column."
    )


def p_text(p_value: float) -> str:
    """Write a p-value."""
    return f"p {decimal(p_value, 3)}" if p_value >= LEAST_P else f"p < {LEAST_P}"


def p_table(results: Compared) -> str:
    """Lay out the adjusted p-values: methods as rows, the mean and the targets as columns; Markdown."""
    targets = [MEAN, *results.counts]
    rows = [
        [name, *(p_text(by_target[target]).removeprefix("p ") for target in targets)]
        for name, by_target in results.adjusted_p.items()
    ]
    return markdown_table(["adjusted p-value", *targets], rows)
