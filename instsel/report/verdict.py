"""The verdict of studies on a terminal: a table of methods by targets, or JSON for machines."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from instsel.console import Terminal, one_line
from instsel.report.markdown import decimal, percent
from instsel.report.page.overview import NOTHING, by_mean, headline, interval
from instsel.stats import MEAN

ROOM = 12
TOLD = (
    "study", "place", "model", "baseline", "confidence", "best", "full", "losses", "differences", "heldout_rows",
    "seeds", "missing", "doubts",
)  # fmt: skip


def tell_verdicts(studies: Sequence[Mapping[str, Any]], page: str, terminal: Terminal, as_json: bool) -> None:
    """Show what studies found, and where their page is.

    Args:
        studies: facts of each.
        page: where report.html is.
        terminal: where to tell it.
        as_json: print one JSON object, `page` and `studies`, and nothing else.
    """
    if as_json:
        terminal.data({"page": page, "studies": [{key: facts[key] for key in TOLD} for facts in studies]})
        return
    for facts in studies:
        terminal.head(f"study {facts['study']}")
        for doubt in facts["doubts"]:
            terminal.say(f"warning: {doubt}")
        if facts["missing"]:
            first, *rest = facts["missing"]
            terminal.say(f"not finished: {first} is missing{f', and {len(rest)} stages more' if rest else ''}")
        if facts["losses"]:
            terminal.table(verdict_table(facts), short_table(facts), means_table(facts))
            terminal.say(headline(facts))
        else:
            terminal.say(NOTHING)
    terminal.say(f"report: {page}")


def verdict_table(facts: Mapping[str, Any]) -> Table:
    """Methods by targets: held-out loss and its difference to the baseline; the lowest of each column is bold."""
    losses, targets = facts["losses"], [MEAN, *facts["heldout_rows"]]
    lowest = {target: min(by_target[target] for by_target in losses.values()) for target in targets}
    table = Table(
        caption=f"held-out loss, nats; difference to {_safe(facts['baseline'])}, {percent(facts['confidence'])}"
    )
    table.add_column("method")
    for target in targets:
        table.add_column(_safe(target), justify="right")
    for name in by_mean(facts):
        cells = []
        for target in targets:
            shown = _loss(losses[name][target], lowest[target])
            said = interval(facts["differences"].get(name, {}).get(target))
            cells.append(f"{shown}\n[dim]{escape(said)}[/]" if said else shown)
        table.add_row(_method(name, facts), *cells)
    return table


def short_table(facts: Mapping[str, Any]) -> Table:
    """Methods, their mean loss, and on how many targets they are better and on which worse than the baseline."""
    losses = facts["losses"]
    lowest = min(by_target[MEAN] for by_target in losses.values())
    baseline = _safe(facts["baseline"])
    table = Table(caption=f"held-out loss, nats; better and worse where the {_confidence(facts)} interval says so")
    table.add_column("method", overflow="fold", min_width=min(ROOM, max(len(_safe(name)) for name in losses)))
    table.add_column(MEAN, justify="right", no_wrap=True)
    table.add_column(f"difference to {baseline}", justify="right", no_wrap=True)
    table.add_column("better", justify="right", no_wrap=True)
    table.add_column("worse on", overflow="fold", min_width=len("worse on"))
    targets = list(facts["heldout_rows"])
    for name in by_mean(facts):
        found = facts["differences"].get(name)
        better, worse = ([one for one in targets if found and _clear(found[one], sign)] for sign in (-1, 1))
        table.add_row(
            _method(name, facts),
            _loss(losses[name][MEAN], lowest),
            escape(interval(found and found[MEAN])),
            f"{len(better)} of {len(targets)}" if found else "",
            _safe(", ".join(worse)),
        )
    return table


def means_table(facts: Mapping[str, Any]) -> Table:
    """Methods and their mean loss, where there is room for no more."""
    losses = facts["losses"]
    lowest = min(by_target[MEAN] for by_target in losses.values())
    table = Table(caption="held-out loss, nats")
    table.add_column("method", overflow="fold")
    table.add_column(MEAN, justify="right", no_wrap=True)
    for name in by_mean(facts):
        table.add_row(_method(name, facts), _loss(losses[name][MEAN], lowest))
    return table


def _confidence(facts: Mapping[str, Any]) -> str:
    return percent(facts["confidence"])


def _method(name: str, facts: Mapping[str, Any]) -> str:
    return f"[bold]{_safe(name)}[/]" if name == facts["best"] else _safe(name)


def _loss(value: float, lowest: float) -> str:
    return f"[bold green]{decimal(value, 3)}[/]" if value == lowest else decimal(value, 3)


def _clear(found: Mapping[str, float], sign: int) -> bool:
    """Whether a difference has this sign within all of its interval."""
    return min(sign * found["low"], sign * found["high"]) > 0


def _safe(name: str) -> str:
    return escape(one_line(name))
