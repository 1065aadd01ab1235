"""report.md: a study's summary for a person to read."""

from collections.abc import Mapping
from typing import Any

from instsel.evaluation.bootstrap import Interval
from instsel.printable import inline
from instsel.report.markdown import (
    MOST_COLUMNS,
    StageCost,
    comparison_table,
    composition_table,
    cost_table,
    decimal,
    markdown_table,
    percent,
)
from instsel.report.mixture import mixture_sections

TASKS_SHOWN = 12


def study_report(summary: Mapping[str, Any]) -> str:
    """The report of a study in Markdown.

    Args:
        summary: what `stages.report.summarise` makes and summary.json holds.
    """
    parts = [
        f"# Study {summary['study']}\n",
        _what(summary),
        "Charts and rows to read are in [report.html](report.html).\n",
        *_losses(summary),
        *_made_of(summary),
        *_served(summary),
        *mixture_sections(summary),
        *_cost(summary),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _what(summary: Mapping[str, Any]) -> str:
    pool = summary["pool"]
    budget = summary["budget"]
    unit = summary["unit"]
    share = f"{budget:.0%} of the pool's {unit}" if isinstance(budget, float) else f"{budget:,} {unit}"
    rejected = sorted(pool["rejected"].items(), key=lambda item: (-item[1], item[0]))
    lines = [
        f"Model `{summary['model']}` in {summary['dtype']}; pool of {pool['rows']:,} rows, {pool['tokens']:,} tokens; "
        f"budget {share}.",
        *(f"- set aside: {count:,} x {inline(reason)}" for reason, count in rejected),
    ]
    if summary["set_aside"]:
        lines.append(f"- set aside: {len(summary['set_aside']):,} x no usable gradient")
    return "\n".join(lines)


def _losses(summary: Mapping[str, Any]) -> list[str]:
    if not summary["heldout_rows"]:
        return ["## Held-out loss\n", "No target has held-out rows, so nothing was evaluated."]
    intervals = {
        column: {target: Interval(**found) for target, found in by_target.items()}
        for column, by_target in summary["differences"].items()
    }
    losses = {
        column: {target: loss for target, loss in by_target.items() if target != "mean"}
        for column, by_target in summary["losses"].items()
    }
    rows = ", ".join(f"{target} {count}" for target, count in summary["heldout_rows"].items())
    seeds = [
        f"{column} is the mean of {len(runs)} runs" for column, runs in summary["columns"].items() if len(runs) > 1
    ]
    notes = [
        f"Mean cross-entropy of answer tokens, nats; lower is better. In brackets: difference to {summary['baseline']} "
        f"with its {percent(summary['confidence'])} paired bootstrap interval over held-out rows ({rows}).",
        *(f"{note[0].upper()}{note[1:]}." for note in seeds),
    ]
    return ["## Held-out loss\n", comparison_table(losses, intervals, summary["baseline"]), " ".join(notes)]


def _made_of(summary: Mapping[str, Any]) -> list[str]:
    selections = summary["selections"]
    sources = {source: counts["rows"] for source, counts in summary["pool"]["sources"].items()}
    parts = ["## What was chosen\n"]
    if len(selections) <= MOST_COLUMNS:
        parts.append(composition_table({name: made["sources"] for name, made in selections.items()}, sources))
    for name, selection in selections.items():
        tasks = sorted(selection["tasks"].items(), key=lambda item: (-item[1], item[0]))[:TASKS_SHOWN]
        shown = ", ".join(f"{inline(task)} {count}" for task, count in tasks)
        parts.append(f"**{name}**: {selection['rows']:,} rows, {selection['tokens']:,} tokens; most from {shown}.")
    return parts


def _served(summary: Mapping[str, Any]) -> list[str]:
    if not summary["figures"]:
        return []
    found = summary["figures"]["by_selection"]
    targets = list(next(iter(found.values()))["served"])
    body = [
        [
            name,
            *(f"{figure['served'][target]:,} ({decimal(figure['influence'][target])})" for target in targets),
            f"{decimal(figure['lowest'])} to {decimal(figure['highest'])}",
            decimal(figure["redundancy"], 3),
        ]
        for name, figure in found.items()
    ]
    note = (
        "Rows whose influence is highest on the target, and in brackets the mean influence of the whole selection on "
        "it, in deviations of the pool above the pool's mean; the same for the validation rows that it serves worst "
        "and best; the mean cosine of two gradients of the selection. "
        f"By {summary['figures']['influence']}."
    )
    return [
        "## What each selection serves\n",
        markdown_table(["selection", *targets, "worst to best row", "redundancy"], body),
        note,
    ]


def _cost(summary: Mapping[str, Any]) -> list[str]:
    costs = {
        name: StageCost(
            cost["seconds"], cost["tokens"] or None, cost["peak_memory_bytes"] or None, cost.get("rows_again", 0)
        )
        for name, cost in summary["cost"].items()
    }
    versions = ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    return ["## What it cost\n", cost_table(costs), f"{versions}; fingerprint {summary['fingerprint']}."]
