"""What a search found: the Pareto set, which keys mattered, and the trials."""

from collections.abc import Mapping, Sequence
from typing import Any

from instsel.report.page import figures
from instsel.report.page.parts import Cell, Chart, Section, Table, count, label, number, rounded


def search_section(facts: Mapping[str, Any]) -> Section | None:
    """The search of a study; None where there is none."""
    found = facts["search"]
    if not found or not found.get("trials"):
        return None
    parts: list[Table | Chart] = [pareto_chart(found["trials"])]
    if found["importance"]:
        by_share = dict(sorted(found["importance"].items(), key=lambda item: -item[1]))
        shares = {"share of the objective's spread": list(by_share.values())}
        parts.append(figures.bars("What mattered", list(by_share), shares, form=".0%"))
    parts.append(_trials(found["trials"]))
    return Section("search", "Search", parts)


def pareto_chart(trials: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw objective against tokens trained on of every trial that ended, the Pareto set joined by a line."""
    ended = [trial for trial in trials if trial["objective"] is not None and not trial["stopped"]]
    groups = {
        "Pareto set": sorted((trial for trial in ended if trial["pareto"]), key=lambda trial: trial["tokens"]),
        "other trials": [trial for trial in ended if not trial["pareto"]],
    }
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers" if name == "Pareto set" else "markers",
            "name": name,
            "x": [trial["tokens"] for trial in group],
            "y": rounded([trial["objective"] for trial in group]),
            "text": ["<br>".join(label(f"{key} {_value(one)}") for key, one in trial["point"].items())
                     for trial in group],
            "hovertemplate": "%{y:.3f} at %{x:,} tokens<br>%{text}<extra></extra>",
            "marker": {"size": 9},
        }
        for name, group in groups.items()
    ]  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "tokens trained on"}},
        "yaxis": {"title": {"text": "objective"}},
        "showlegend": True,
    }
    note = "No other trial has both fewer tokens and a lower objective than one of the Pareto set."
    return Chart("Pareto set", traces, layout, 380, note)


def _trials(trials: list[dict[str, Any]]) -> Table:
    keys = list(dict.fromkeys(key for trial in trials for key in trial["point"]))
    rows = []
    for trial in trials:
        values = [trial["point"].get(key) for key in keys]
        state = "failed" if trial["failed"] else "stopped" if trial["stopped"] else "Pareto" if trial["pareto"] else ""
        rows.append(
            [
                Cell(trial["name"][:6], trial["name"], small=state),
                number(trial["objective"], 3, best=trial["pareto"]),
                count(trial["tokens"]),
                *(Cell(_value(value), value if isinstance(value, int | float) else str(value)) for value in values),
            ]
        )
    return Table(["trial", "objective", "tokens", *keys], rows, title="Trials")


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
