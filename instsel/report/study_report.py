"""report.md: a study's summary for a person to read."""

from collections.abc import Mapping
from typing import Any

from instsel.evaluation.bootstrap import Interval
from instsel.report.markdown import StageCost, comparison_table, composition_table, cost_table

TASKS_SHOWN = 12


def study_report(summary: Mapping[str, Any]) -> str:
    """The report of a study in Markdown.

    Args:
        summary: what `stages.report.summarise` makes and summary.json holds.
    """
    parts = [f"# Study {summary['study']}\n", _what(summary), *_losses(summary), *_made_of(summary), *_cost(summary)]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _what(summary: Mapping[str, Any]) -> str:
    pool = summary["pool"]
    budget = summary["budget"]
    share = f"{budget:.0%} of the pool" if isinstance(budget, float) else f"{budget} rows"
    rejected = sorted(pool["rejected"].items(), key=lambda item: (-item[1], item[0]))
    lines = [
        f"Model `{summary['model']}`; pool of {pool['rows']:,} rows, {pool['tokens']:,} tokens; budget {share}.",
        *(f"- set aside: {count:,} x {reason}" for reason, count in rejected),
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
        f"with its {summary['confidence']:.0%} paired bootstrap interval over held-out rows ({rows}).",
        *(f"{note[0].upper()}{note[1:]}." for note in seeds),
    ]
    return ["## Held-out loss\n", comparison_table(losses, intervals, summary["baseline"]), " ".join(notes)]


def _made_of(summary: Mapping[str, Any]) -> list[str]:
    selections = summary["selections"]
    sources = {source: counts["rows"] for source, counts in summary["pool"]["sources"].items()}
    parts = ["## What was chosen\n", composition_table({n: s["sources"] for n, s in selections.items()}, sources)]
    for name, selection in selections.items():
        tasks = sorted(selection["tasks"].items(), key=lambda item: (-item[1], item[0]))[:TASKS_SHOWN]
        shown = ", ".join(f"{task} {count}" for task, count in tasks)
        parts.append(f"**{name}**: {selection['rows']:,} rows, {selection['tokens']:,} tokens; most from {shown}.")
    return parts


def _cost(summary: Mapping[str, Any]) -> list[str]:
    costs = {
        name: StageCost(cost["seconds"], cost["tokens"] or None, cost["peak_memory_bytes"] or None)
        for name, cost in summary["cost"].items()
    }
    versions = ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    return ["## What it cost\n", cost_table(costs), f"{versions}; fingerprint {summary['fingerprint']}."]
