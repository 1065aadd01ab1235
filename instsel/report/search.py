"""What a search found, for a person to read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from instsel.report.markdown import decimal, markdown_table
from instsel.report.page.search import pareto_chart
from instsel.search.outcome import Outcome, pareto_set

SHOWN = 20


def search_summary(outcomes: Sequence[Outcome], importance: Mapping[str, float], share: float) -> dict[str, Any]:
    """All numbers of a search, JSON values only.

    Args:
        outcomes: the trials, the best first, those that were stopped early or failed last.
        importance: key -> share of the objective's spread.
        share: of the held-out rows that were searched by.
    """
    best = [one.name for one in pareto_set([one for one in outcomes if not one.stopped])]
    trials = []
    for one in outcomes:
        values = asdict(one)
        # JSON has no infinity.
        trials.append({**values, "objective": None if one.failed else one.objective, "pareto": one.name in best})
    return {"trials": trials, "importance": dict(importance), "share": share}


def search_report(summary: Mapping[str, Any], study: str) -> str:
    """The report of a search in Markdown.

    Args:
        summary: what `search_summary` makes.
        study: name of the study file that is best, as it is written.
    """
    trials = summary["trials"]
    ended = [trial for trial in trials if trial["objective"] is not None and not trial["stopped"]]
    failed = [trial for trial in trials if trial["failed"]]
    best = ended[0]
    targets = list(best["judged"])
    parts = [
        "# Search\n",
        f"{len(trials)} trials, {len(trials) - len(ended) - len(failed)} stopped early, {len(failed)} failed; "
        f"{sum(trial['tokens'] for trial in trials):,} tokens trained on. Best: `{study}`.\n",
        "## Best\n",
        _point(best["point"]) + "\n",
        markdown_table(
            ["rows", *targets, "mean"],
            [_losses("searched by", best["searched"], targets), _losses("not searched by", best["judged"], targets)],
        ),
        f"The search saw {summary['share']:.0%} of each target's held-out rows; the others are the fair judges.\n",
        "## Trials\n",
        _trials(trials, targets),
        "Pareto set: no other trial has fewer tokens and a lower objective.\n",
        "The trials as a chart: [pareto.html](pareto.html).\n",
    ]
    if summary["importance"]:
        body = [[key, f"{share:.0%}"] for key, share in summary["importance"].items()]
        parts += ["## What mattered\n", markdown_table(["key", "share of the objective's spread"], body)]
    parts += [f"- failed: {_point(trial['point'])}: {trial['failed']}" for trial in failed]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def search_picture(summary: Mapping[str, Any]) -> bytes:
    """Return objective against tokens as an HTML file with Plotly's script in it, which loads nothing."""
    from plotly.io import to_html

    chart = pareto_chart(summary["trials"])
    page: str = to_html(
        {"data": chart.traces, "layout": {"title": {"text": chart.title}, **chart.layout}}, div_id="pareto"
    )
    return page.encode("utf-8", "backslashreplace")


def _trials(trials: Sequence[Mapping[str, Any]], targets: Sequence[str]) -> str:
    keys = list(trials[0]["point"])
    body = []
    for trial in trials[:SHOWN]:
        if trial["failed"]:
            continue
        note = "stopped" if trial["stopped"] else "Pareto" if trial["pareto"] else ""
        means = [_mean(trial[part], targets) for part in ("searched", "judged")]
        values = [_value(trial["point"][key]) for key in keys]
        body.append([trial["name"][:6], *values, f"{trial['tokens']:,}", decimal(trial["objective"], 3), *means, note])
    return markdown_table(["trial", *keys, "tokens", "objective", "mean searched by", "mean of the others", ""], body)


def _losses(name: str, losses: Mapping[str, float], targets: Sequence[str]) -> list[str]:
    return [name, *(decimal(losses[target], 3) for target in targets), _mean(losses, targets)]


def _mean(losses: Mapping[str, float], targets: Sequence[str]) -> str:
    return decimal(sum(losses[target] for target in targets) / len(targets), 3) if losses else "–"


def _point(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in point.items())


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
