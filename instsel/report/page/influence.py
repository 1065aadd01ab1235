"""Whom sources and selections help: the heatmap of influence, THI and AID as BIDS draws them, and the balance."""

from collections.abc import Mapping, Sequence
from typing import Any

from instsel.report.page import figures
from instsel.report.page.parts import Chart, Section, Table, labels, name_cell, number

LINES_SHOWN = 5


def influence_section(facts: Mapping[str, Any]) -> Section | None:
    """Influence before and after normalisation; None where the study stored none."""
    found = facts["influence"]
    if not found:
        return None
    lead = (
        f"By the stored influence {found['way']}. Normalised means that the influence on each validation row has the "
        "pool's mean 0 and deviation 1, so that no row counts more because its gradients are larger."
    )
    targets, sources = found["targets"], found["sources"]
    parts: list[Table | Chart] = [
        figures.heatmap("Mean influence of sources on targets", sources, targets, found["raw"], diverging=True,
                        form=".2g"),
        figures.heatmap("The same, normalised", sources, targets, found["normal"], diverging=True),
    ]  # fmt: skip
    own = found["selections"]
    if own:
        parts += [_balance(found), *_thi(found, _order(facts)), *_aid(found, _order(facts)[:LINES_SHOWN])]
    return Section("influence", "Influence", parts, lead)


def _order(facts: Mapping[str, Any]) -> list[str]:
    """Selections of the best method first, then random's, then the others."""
    seeds, there = facts["seeds"], facts["influence"]["selections"]
    ranked = sorted(facts["losses"], key=lambda name: facts["losses"][name]["mean"])
    first = [name for name in (facts["best"], facts["baseline"], *ranked) if name]
    named = [one for name in first for one in (name, *seeds.get(name, [])[:1]) if one in there]
    return list(dict.fromkeys([*named, *there]))


def _balance(found: Mapping[str, Any]) -> Chart:
    own = found["selections"]
    note = (
        "Mean normalised influence of each selection on each target, in deviations of the pool. A balanced selection "
        "has no cold column."
    )
    values = [one["balance"] for one in own.values()]
    return figures.heatmap("Balance over targets", list(own), found["targets"], values, diverging=True, note=note)


def _thi(found: Mapping[str, Any], order: Sequence[str]) -> list[Table | Chart]:
    """How many rows of a selection have their highest influence on each target."""
    own, targets = found["selections"], found["targets"]
    titles = {"thi_raw": "Task with the highest influence (THI)", "thi_normal": "THI, normalised"}
    note = "Rows of each selection by the target on which their influence, summed over its validation rows, is highest."
    made: list[Table | Chart] = []
    for key, title in titles.items():
        series = {
            target: [own[name][key][place] / max(1, sum(own[name][key])) for name in order]
            for place, target in enumerate(targets)
        }
        made.append(figures.bars(title, order, series, stacked=True, form=".0%", note=note))
    rows = [
        [name_cell(name), *(number(one, 0) for key in titles for one in own[name][key]),
         *(number(one) for one in own[name]["balance"])]
        for name in order
    ]  # fmt: skip
    head = ["selection", *(f"{what} {target}" for what in ("THI", "THI normalised", "balance") for target in targets)]
    return [*made, Table(head, rows, title="As a table", folded=True)]


def _aid(found: Mapping[str, Any], shown: Sequence[str]) -> list[Chart]:
    """Average influence distribution: the mean influence of a selection on every validation row."""
    columns, targets = found["columns"], found["targets"]
    names = [*shown, *(name for name in found["selections"] if name not in shown)]
    order = sorted(range(len(columns)), key=lambda place: columns[place])
    starts = [sum(name < target for name in columns) for target in targets]
    sizes = [columns.count(target) for target in targets]
    axis = {
        "tickvals": [start + size / 2 for start, size in zip(starts, sizes, strict=True)],
        "ticktext": labels(targets),
        "automargin": True,
        "showgrid": False,
    }
    parted = [
        {"type": "line", "x0": at - 0.5, "x1": at - 0.5, "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 0.5}}
        for at in starts[1:]
    ]
    note = "Mean influence of a selection on each validation row, by target. Names in the legend switch lines on."
    charts = []
    for key, title in (("aid_raw", "Average influence distribution (AID)"), ("aid_normal", "AID, normalised")):
        series = {
            name: (list(range(len(order))), [found["selections"][name][key][place] for place in order])
            for name in names
        }
        charts.append(figures.lines(title, series, {"xaxis": axis, "shapes": parted}, shown=shown, note=note))
    return charts
