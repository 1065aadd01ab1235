"""What the results say, in sentences: which methods are best, and what an interval and a p-value mean here."""

from collections.abc import Sequence

from instsel.report.facts import Results
from instsel.report.markdown import BASE, decimal, markdown_table, percent
from instsel.stats import MEAN, Interval

MOST_NAMED = 4
"""Methods that a sentence names; of more, the first three."""

LEAST_P = 0.001


def headline(results: Results) -> str:
    """Say which methods are best and by how much: all that are not told apart from the one of the lowest mean."""
    best, baseline = results.best, results.baseline
    if best is None:
        return "Only the base model is evaluated so far."
    if len(results.not_told_apart) > 1:
        return _several(results, results.not_told_apart)
    mean = f"with a mean held-out loss of {decimal(results.losses[best][MEAN], 3)}"
    only = len(results.losses) - (BASE in results.losses) == 1
    sentence = f"{best} is the only method that is evaluated so far, {mean}" if only else f"Best: {best}, {mean}"
    if best == baseline and not only:
        return f"{sentence}: no method beat {baseline}."
    if best not in results.differences:
        return f"{sentence}."
    interval = results.differences[best][MEAN]
    unclear = ", which is no clear difference" if results.outcome(best, MEAN) == "undecided" else ""
    by_target = _by_target(results, best)
    return (
        f"{sentence}, {decimal(abs(interval.difference), 3)} {'below' if interval.difference < 0 else 'above'} "
        f"{baseline} [{decimal(interval.low, 3)}, {decimal(interval.high, 3)}]{unclear}. "
        f"{by_target[0].upper()}{by_target[1:]}."
    )


def _several(results: Results, members: Sequence[str]) -> str:
    means = _numbers([results.losses[name][MEAN] for name in members])
    sentences = [f"Best: {_names(members)}, not told apart, with mean held-out losses of {means}"]
    compared = [name for name in members if name in results.differences]
    if compared:
        sentences[0] += f"; {_relation(results, members, compared)}"
    if len(compared) < MOST_NAMED:
        by_target = "; ".join(f"{name}: {_by_target(results, name)}" for name in compared)
        sentences += [by_target] if by_target else []
    return ". ".join(sentences) + "."


def _relation(results: Results, members: Sequence[str], compared: Sequence[str]) -> str:
    """Say which of the methods are clearly below the baseline, which may be one of the members itself."""
    below = [name for name in compared if results.outcome(name, MEAN) == "better"]
    if not below:
        return f"{_names(compared)} {'is' if len(compared) == 1 else 'are'} not clearly below {results.baseline}"
    differences = _numbers([abs(results.differences[name][MEAN].difference) for name in below])
    everyone = "both" if len(members) == 2 else "all"
    subject = everyone if len(below) == len(members) else f"of these, only {_names(below)}"
    return f"{subject} clearly below {results.baseline}, by {differences}"


def _by_target(results: Results, name: str) -> str:
    targets = [target for target in results.differences[name] if target != MEAN]
    better, worse = (
        [target for target in targets if results.outcome(name, target) == kind] for kind in ("better", "worse")
    )
    return f"clearly better on {len(better)} of {len(targets)} targets, clearly worse on {', '.join(worse) or 'none'}"


def _names(names: Sequence[str]) -> str:
    shown = list(names) if len(names) <= MOST_NAMED else [*names[: MOST_NAMED - 1], f"{len(names) - 3} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _numbers(values: Sequence[float]) -> str:
    """Write up to two numbers, or the smallest and the largest of more."""
    if len(values) <= 2:
        return " and ".join(decimal(value, 3) for value in values)
    return f"{decimal(min(values), 3)} to {decimal(max(values), 3)}"


def interval_text(interval: Interval | None) -> str:
    """Write a difference with its interval; nothing where there is none."""
    if interval is None:
        return ""
    return f"{decimal(interval.difference)} [{decimal(interval.low)}, {decimal(interval.high)}]"


def interval_note(results: Results) -> str:
    """Say what the differences and their intervals are."""
    heldout = ", ".join(f"{target} {count}" for target, count in results.heldout_rows.items())
    note = (
        f"difference to {results.baseline} with its {percent(results.confidence)} paired bootstrap interval over "
        f"held-out rows ({heldout})."
    )
    return f"{note} {seeds_note(results)}".strip()


def seeds_note(results: Results) -> str:
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


def significance_note(results: Results) -> str:
    """Say when a method is called better or worse."""
    return (
        f"A difference is clear, for better or worse, where its p-value is at most {percent(results.level)}, adjusted "
        "by Holm over the methods of a column."
    )


def p_text(p_value: float) -> str:
    """Write a p-value."""
    return f"p {decimal(p_value, 3)}" if p_value >= LEAST_P else f"p < {LEAST_P}"


def p_table(results: Results) -> str:
    """Lay out the adjusted p-values: methods as rows, the mean and the targets as columns; Markdown."""
    targets = [MEAN, *results.heldout_rows]
    rows = [
        [name, *(p_text(by_target[target]).removeprefix("p ") for target in targets)]
        for name, by_target in results.adjusted_p.items()
    ]
    return markdown_table(["adjusted p-value", *targets], rows)
