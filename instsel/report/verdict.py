"""The verdict of studies on a terminal: a table of methods by targets, or JSON for machines."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from instsel.evaluation.bootstrap import MEAN
from instsel.printable import one_line
from instsel.progress import Terminal
from instsel.report.markdown import decimal
from instsel.report.page.overview import by_mean, headline, interval

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
            terminal.say(
                f"not finished: {len(facts['missing'])} stages are missing, the first is {facts['missing'][0]}"
            )
        if facts["losses"]:
            terminal.table(verdict_table(facts))
            terminal.say(headline(facts))
        else:
            terminal.say("nothing is evaluated yet")
    terminal.say(f"report: {page}")


def verdict_table(facts: Mapping[str, Any]) -> Table:
    """Methods by targets: held-out loss and its difference to the baseline; the lowest of each column is bold."""
    losses, targets = facts["losses"], [MEAN, *facts["heldout_rows"]]
    lowest = {target: min(by_target[target] for by_target in losses.values()) for target in targets}
    table = Table(caption=f"held-out loss, nats; difference to {_safe(facts['baseline'])}, {facts['confidence']:.0%}")
    table.add_column("method", overflow="fold")
    for target in targets:
        table.add_column(_safe(target), justify="right", overflow="fold")
    for name in by_mean(facts):
        cells = []
        for target in targets:
            loss = losses[name][target]
            shown = f"[bold green]{decimal(loss, 3)}[/]" if loss == lowest[target] else decimal(loss, 3)
            said = interval(facts["differences"].get(name, {}).get(target))
            cells.append(f"{shown}\n[dim]{escape(said)}[/]" if said else shown)
        table.add_row(f"[bold]{_safe(name)}[/]" if name == facts["best"] else _safe(name), *cells)
    return table


def _safe(name: str) -> str:
    return escape(one_line(name))
