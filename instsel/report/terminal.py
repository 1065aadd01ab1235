"""The results of studies on a terminal: a table of methods by targets, or JSON for machines."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from instsel.console import Terminal, one_line
from instsel.report.collect import as_json
from instsel.report.compared import Compared, Measure
from instsel.report.comparison import NO_RESULTS
from instsel.report.curve import curve_sentences
from instsel.report.facts import StudyFacts
from instsel.report.headline import guard_sentences, headline, interval_text, seeds_note, value_text
from instsel.report.markdown import percent
from instsel.stats import MEAN

NAME_WIDTH = 12
IN_JSON = (
    "study", "path", "model", "accuracy", "baseline", "confidence", "best", "not_told_apart", "whole_pool", "losses",
    "differences", "adjusted_p", "heldout_rows", "runs", "curve", "missing", "warnings",
)  # fmt: skip


def show_results(studies: Sequence[StudyFacts], page: str, terminal: Terminal, *, json: bool = False) -> None:
    """Show the results of studies, and where their page is.

    Args:
        studies: facts of each.
        page: path of report.html.
        terminal: to show them on.
        json: print one JSON object, `page` and `studies`, and nothing else.
    """
    if json:
        values = [as_json(facts) for facts in studies]
        terminal.data({"page": page, "studies": [{key: facts[key] for key in IN_JSON} for facts in values]})
        return
    for facts in studies:
        terminal.head(f"study {facts.study}")
        for warning in facts.warnings:
            terminal.say(f"warning: {warning}")
        if facts.missing:
            first, *rest = facts.missing
            terminal.say(f"not finished: {first} is missing{f', and {len(rest)} stages more' if rest else ''}")
        compared = [results for results in (facts.accuracy, facts) if results is not None and results.values]
        for results in compared:
            terminal.table(results_table(results), short_table(results), means_table(results))
            terminal.say(headline(results))
        guards = guard_sentences(facts.accuracy) if facts.accuracy is not None else []
        for sentence in [*curve_sentences(facts), *guards]:
            terminal.say(sentence)
        if not compared:
            terminal.say(NO_RESULTS)
        elif note := seeds_note(compared[0]):
            terminal.say(note)
    terminal.say(f"report: {page}")


def results_table(results: Compared) -> Table:
    """Lay out methods by targets: value and difference to the baseline; the best value of each column is bold.

    Differences that are clear have a star.
    """
    targets, measure, best = [MEAN, *results.counts], results.measure, results.best_values
    baseline, confidence = _safe(results.baseline), percent(results.confidence)
    star = f"; * where p is at most {percent(results.level)}, adjusted by Holm" if results.adjusted_p else ""
    table = Table(caption=f"{measure.name}, {measure.unit}; difference to {baseline}, {confidence}{star}")
    table.add_column("method")
    for target in targets:
        table.add_column(_safe(results.label(target)), justify="right")
    for name in results.by_mean:
        cells = []
        for target in targets:
            value = _value(results.values[name][target], best[target], measure)
            difference = interval_text(results.differences.get(name, {}).get(target), measure)
            difference += "*" if results.outcome(name, target) != "undecided" else ""
            cells.append(f"{value}\n[dim]{escape(difference)}[/]" if difference else value)
        table.add_row(_method(name, results), *cells)
    return table


def short_table(results: Compared) -> Table:
    """Lay out methods, their mean, and on how many targets they are clearly better or worse than the baseline."""
    values, targets, measure = results.values, results.judged, results.measure
    level = percent(results.level)
    caption = f"{measure.name}, {measure.unit}; better and worse where p is at most {level}, adjusted by Holm"
    table = Table(caption=caption)
    widest = max(len(_safe(name)) for name in values)
    table.add_column("method", overflow="fold", min_width=min(NAME_WIDTH, widest))
    table.add_column(MEAN, justify="right", no_wrap=True)
    table.add_column(f"difference to {_safe(results.baseline)}", justify="right", no_wrap=True)
    table.add_column("better", justify="right", no_wrap=True)
    table.add_column("worse on", overflow="fold", min_width=len("worse on"))
    for name in results.by_mean:
        differences = results.differences.get(name, {})
        better, worse = (
            [target for target in targets if results.outcome(name, target) == kind] for kind in ("better", "worse")
        )
        table.add_row(
            _method(name, results),
            _value(values[name][MEAN], results.best_values[MEAN], measure),
            escape(interval_text(differences.get(MEAN), measure)),
            f"{len(better)} of {len(targets)}" if differences and targets else "",
            _safe(", ".join(worse)),
        )
    return table


def means_table(results: Compared) -> Table:
    """Lay out methods and their mean, where the terminal is too narrow for more."""
    measure, best = results.measure, results.best_values[MEAN]
    table = Table(caption=f"{measure.name}, {measure.unit}")
    table.add_column("method", overflow="fold")
    table.add_column(MEAN, justify="right", no_wrap=True)
    for name in results.by_mean:
        table.add_row(_method(name, results), _value(results.values[name][MEAN], best, measure))
    return table


def _method(name: str, results: Compared) -> str:
    return f"[bold]{_safe(name)}[/]" if name in results.not_told_apart else _safe(name)


def _value(value: float, best: float, measure: Measure) -> str:
    text = value_text(value, measure)
    return f"[bold green]{text}[/]" if value == best else text


def _safe(name: str) -> str:
    return escape(one_line(name))
