"""What results come to: Markdown tables of means over seeds, and of differences to random on the same seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.skills.arms import RANDOM, is_method
from benchmarks.skills.ledger import read_results, read_seconds, read_settings
from benchmarks.skills.separation import FILE, separation_table
from benchmarks.skills.world import DISTANCES
from instsel.errors import InputError
from instsel.report.markdown import markdown_table
from instsel.stats import Bootstrap, Comparison, compare, holm, not_told_apart

BOOTSTRAP = Bootstrap(samples=10_000, confidence=0.95, seed=0)
_NONE = "\N{EN DASH}"
_SHARES = {
    "recall": "recall",
    "of_good_skill": "right skill",
    "wrong": "wrong",
    "near_copy": "near-copies",
    "useless": "useless",
}

Lines = Mapping[str, Sequence[dict[str, Any]]]
"""The lines of a world by arm, in order of the seed."""


def world_table(lines: Lines, targets: Sequence[str]) -> str:
    """Write the table of one world, arms by falling exact match, and which methods are not told apart from the best.

    Args:
        lines: every arm has the same seeds.
        targets: in the order of the test items.
    """
    accuracies = {arm: np.array([[line["accuracy"] for line in of_arm]]) for arm, of_arm in lines.items()}
    # A seed is the item: worlds, matrices and order of training are drawn anew with each, for all arms alike.
    comparisons = compare({arm: {"all": values} for arm, values in accuracies.items()}, RANDOM, BOOTSTRAP)
    methods = [arm for arm in comparisons if is_method(arm)]
    adjusted = dict(zip(methods, holm([comparisons[arm].p_values["all"] for arm in methods]), strict=True))
    rows = [
        [arm, f"{accuracies[arm].mean():.3f}", _difference(comparisons.get(arm)), _p_value(adjusted.get(arm))]
        + _by_target(lines[arm], len(targets))
        + [_mean([line[share] for line in lines[arm]]) for share in _SHARES]
        for arm in sorted(lines, key=lambda arm: (-accuracies[arm].mean(), arm))
    ]
    header = ["arm", "exact match", "− random", "p", *targets, *_SHARES.values()]
    table = markdown_table(header, rows)
    table = f"{table}\n{accuracies[RANDOM].size} seeds."
    if len(methods) < 2:
        return f"{table}\n"
    best = not_told_apart({arm: {"all": accuracies[arm]} for arm in methods}, BOOTSTRAP, higher_is_better=True)
    return f"{table} Methods not told apart from the best of them: {', '.join(best)}.\n"


def _difference(comparison: Comparison | None) -> str:
    if comparison is None:
        return _NONE
    interval = comparison.intervals["all"]
    return f"{interval.difference:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _p_value(value: float | None) -> str:
    if value is None:
        return _NONE
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _by_target(lines: Sequence[dict[str, Any]], targets: int) -> list[str]:
    correct = np.array([line["correct"] for line in lines]).reshape(len(lines), targets, -1)
    return [f"{value:.2f}" for value in correct.mean(axis=(0, 2))]


def _mean(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    return f"{np.mean(numbers):.2f}" if numbers else _NONE


def seconds_table(seconds: Sequence[dict[str, Any]]) -> str:
    """Write what each signal took, mean over worlds and seeds, and the sum of all arms and signals."""
    by_name: dict[str, list[float]] = {}
    for line in seconds:
        name = line["name"] if line["part"] == "signal" else f"an arm: {line['part']}"
        by_name.setdefault(name, []).append(line["cpu_seconds"])
    rows = [[name, f"{np.mean(values):.2f}", str(len(values))] for name, values in sorted(by_name.items())]
    minutes = sum(line["cpu_seconds"] for line in seconds) / 60
    return f"{markdown_table(['', 'CPU seconds', 'times'], rows)}\nIn all {minutes:.0f} CPU minutes.\n"


def complete(lines: Sequence[dict[str, Any]], world: str) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of a world by arm.

    Raises:
        InputError: an arm lacks seeds that another one has, or there is no random.
    """
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for line in sorted(lines, key=lambda line: line["seed"]):
        if line["world"] == world:
            by_arm.setdefault(line["arm"], []).append(line)
    seeds = {arm: [line["seed"] for line in of_arm] for arm, of_arm in by_arm.items()}
    if RANDOM not in seeds:
        raise InputError(f"the world {world} has no results of {RANDOM}, which all arms are compared with; run it")
    for arm, own in seeds.items():
        if own != seeds[RANDOM]:
            raise InputError(f"{world}, {arm}: has seeds {own}, {RANDOM} has {seeds[RANDOM]}; run the missing ones")
    return by_arm


def tables(evidence: Path) -> dict[str, str]:
    """Return the tables of a folder of evidence by the name of their mark."""
    lines = read_results(evidence)
    targets = sorted(read_settings(evidence)["settings"]["world"]["related"])
    worlds = [world for world in DISTANCES if any(line["world"] == world for line in lines)]
    found: dict[str, str] = {world: world_table(complete(lines, world), targets) for world in worlds}
    if (evidence / FILE).exists():
        found["separation"] = separation_table(evidence)
    return found | {"seconds": seconds_table(read_seconds(evidence))}


def write_table(evidence: Path, readme: Path) -> None:
    """Put the tables between their marks, `<!-- near -->` and `<!-- end -->`.

    Raises:
        InputError: a mark is missing.
    """
    text = readme.read_text(encoding="utf-8")
    for name, table in tables(evidence).items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (mark and end):
            raise InputError(f"{readme} must have the marks <!-- {name} --> and <!-- end -->, each on a line; add them")
        text = f"{before}{mark}\n{table}\n{end}{after}"
    readme.write_text(text, encoding="utf-8")
