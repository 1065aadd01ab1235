"""The results of studies on a terminal: a table of methods by targets, or JSON for machines."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from instsel.console import Terminal, one_line
from instsel.report.collect import as_json
from instsel.report.facts import Results, StudyFacts
from instsel.report.headline import headline, interval_text, seeds_note
from instsel.report.markdown import decimal, percent
from instsel.report.page.results import by_mean
from instsel.report.text import NO_RESULTS
from instsel.stats import MEAN

NAME_WIDTH = 12
IN_JSON = (
    "study", "path", "model", "baseline", "confidence", "best", "not_told_apart", "whole_pool", "losses", "differences",
    "adjusted_p", "heldout_rows", "runs", "missing", "warnings",
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
        if facts.losses:
            terminal.table(results_table(facts), short_table(facts), means_table(facts))
            terminal.say(headline(facts))
            if note := seeds_note(facts):
                terminal.say(note)
        else:
            terminal.say(NO_RESULTS)
    terminal.say(f"report: {page}")


def results_table(results: Results) -> Table:
    """Lay out methods by targets: loss and difference to the baseline; the lowest loss of each column is bold.

    Differences that are clear have a star.
    """
    targets = [MEAN, *results.heldout_rows]
    lowest = {target: min(by_target[target] for by_target in results.losses.values()) for target in targets}
    baseline, confidence = _safe(results.baseline), percent(results.confidence)
    star = f"; * where p is at most {percent(results.level)}, adjusted by Holm" if results.adjusted_p else ""
    table = Table(caption=f"held-out loss, nats; difference to {baseline}, {confidence}{star}")
    table.add_column("method")
    for target in targets:
        table.add_column(_safe(target), justify="right")
    for name in by_mean(results):
        cells = []
        for target in targets:
            loss = _loss(results.losses[name][target], lowest[target])
            difference = interval_text(results.differences.get(name, {}).get(target))
            difference += "*" if results.outcome(name, target) != "undecided" else ""
            cells.append(f"{loss}\n[dim]{escape(difference)}[/]" if difference else loss)
        table.add_row(_method(name, results), *cells)
    return table


def short_table(results: Results) -> Table:
    """Lay out methods, their mean loss, and on how many targets they are clearly better or worse than the baseline."""
    losses, targets = results.losses, list(results.heldout_rows)
    lowest = min(by_target[MEAN] for by_target in losses.values())
    caption = f"held-out loss, nats; better and worse where p is at most {percent(results.level)}, adjusted by Holm"
    table = Table(caption=caption)
    widest = max(len(_safe(name)) for name in losses)
    table.add_column("method", overflow="fold", min_width=min(NAME_WIDTH, widest))
    table.add_column(MEAN, justify="right", no_wrap=True)
    table.add_column(f"difference to {_safe(results.baseline)}", justify="right", no_wrap=True)
    table.add_column("better", justify="right", no_wrap=True)
    table.add_column("worse on", overflow="fold", min_width=len("worse on"))
    for name in by_mean(results):
        differences = results.differences.get(name, {})
        better, worse = (
            [target for target in targets if results.outcome(name, target) == kind] for kind in ("better", "worse")
        )
        table.add_row(
            _method(name, results),
            _loss(losses[name][MEAN], lowest),
            escape(interval_text(differences.get(MEAN))),
            f"{len(better)} of {len(targets)}" if differences else "",
            _safe(", ".join(worse)),
        )
    return table


def means_table(results: Results) -> Table:
    """Lay out methods and their mean loss, where the terminal is too narrow for more."""
    losses = results.losses
    lowest = min(by_target[MEAN] for by_target in losses.values())
    table = Table(caption="held-out loss, nats")
    table.add_column("method", overflow="fold")
    table.add_column(MEAN, justify="right", no_wrap=True)
    for name in by_mean(results):
        table.add_row(_method(name, results), _loss(losses[name][MEAN], lowest))
    return table


def _method(name: str, results: Results) -> str:
    return f"[bold]{_safe(name)}[/]" if name in results.not_told_apart else _safe(name)


def _loss(value: float, lowest: float) -> str:
    return f"[bold green]{decimal(value, 3)}[/]" if value == lowest else decimal(value, 3)


def _safe(name: str) -> str:
    return escape(one_line(name))
