"""Tables and numbers as Markdown: held-out losses, and what selections are made of."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from instsel.console import inline
from instsel.stats import MEAN, Interval

BASE = "base"
"""Name of the run that is the model as it came, before any finetuning: always the first column."""

MOST_COLUMNS = 8
"""Runs that a table of targets has room for beside each other."""

_MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
"""Stands where there is no number."""


def comparison_table(
    losses: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Mapping[str, Interval]], baseline: str,
    *, digits: int = 2, higher_is_better: bool = False, excluded: Collection[str] = (),
) -> str:  # fmt: skip
    """Lay out held-out losses or scores: targets as rows and their mean below, runs as columns, the base model first.

    More runs than `MOST_COLUMNS` become rows, in order of their mean. The best value of a target is bold.
    A run with intervals shows its difference to the baseline and the interval too:
    `**1.93** (−0.41 [−0.52, −0.30])`.

    Args:
        losses: run to target to mean loss or score; "base" is the model before finetuning.
        intervals: run to target, and "mean", to Interval against `baseline`; a run without any shows its losses alone.
        baseline: the run that the intervals compare with.
        digits: decimals shown.
        higher_is_better: as for accuracies.
        excluded: targets that the mean is not over; it is over all where none would be left.

    Returns:
        A Markdown table that ends with a newline.

    Raises:
        ValueError: no runs, no such baseline, intervals of an unknown run, runs with different targets or a target
            without its interval.
    """
    if baseline not in losses:
        raise ValueError(f"baseline must be one of the runs {sorted(losses)}, got {baseline!r}")
    targets = list(losses[baseline])
    for run, values in losses.items():
        if set(values) != set(targets) or not targets:
            raise ValueError(f"every run must have the same targets as {baseline}, {targets}; {run} has {list(values)}")
    for run, row in intervals.items():
        missing = [target for target in [*targets, MEAN] if target not in row]
        if run not in losses or missing:
            raise ValueError(f"intervals of {run!r}: expected a run of {sorted(losses)} and all targets, not {missing}")
    runs = sorted(losses, key=lambda run: run != BASE)
    table = {target: [losses[run][target] for run in runs] for target in targets}
    counted = [target for target in targets if target not in excluded] or targets
    table[MEAN] = [sum(losses[run][target] for target in counted) / len(counted) for run in runs]
    cells: dict[str, list[str]] = {}
    for target, means in table.items():
        best = max(means) if higher_is_better else min(means)
        cells[target] = [_number_or_best(mean, best, digits) for mean in means]
        for column, run in enumerate(runs):
            if run in intervals:
                cells[target][column] += f" ({_difference(intervals[run][target], digits)})"
    if len(runs) <= MOST_COLUMNS:
        return markdown_table(["target", *runs], [[target, *row] for target, row in cells.items()])
    order = sorted(range(len(runs)), key=lambda column: table[MEAN][column], reverse=higher_is_better)
    return markdown_table(["run", *cells], [[runs[c], *(row[c] for row in cells.values())] for c in order])


def composition_table(counts: Mapping[str, Mapping[str, int]], pool: Mapping[str, int]) -> str:
    """Lay out the rows of the pool and of each selection by source, largest in the pool first, and the total.

    Args:
        counts: method to source to number of rows chosen; a source without any may be missing.
        pool: source to number of rows.

    Returns:
        A Markdown table of counts with each column's percentages, ending with a newline.

    Raises:
        ValueError: a source that the pool does not have, or more rows chosen from it than it has.
    """
    for method, chosen in counts.items():
        for source, count in chosen.items():
            if count > pool.get(source, 0):
                raise ValueError(
                    f"{method} chose {count} rows from {source!r}, of which the pool has {pool.get(source, 0)}"
                )
    columns = [pool, *counts.values()]
    totals = [sum(column.values()) for column in columns]
    body = [
        [source, *(_share(column.get(source, 0), total) for column, total in zip(columns, totals, strict=True))]
        for source in sorted(pool, key=lambda name: (-pool[name], name))
    ]
    body.append(["total", *(f"{total:,}" for total in totals)])
    return markdown_table(["source", "pool", *counts], body)


def _number_or_best(value: float, best: float, digits: int) -> str:
    return f"**{decimal(value, digits)}**" if value == best else decimal(value, digits)


def _difference(interval: Interval, digits: int) -> str:
    low, high = decimal(interval.low, digits), decimal(interval.high, digits)
    return f"{decimal(interval.difference, digits)} [{low}, {high}]"


def percent(share: float) -> str:
    """Write a share as a percentage that is not rounded away: 0.005 is 0.5%."""
    return f"{100 * share:.4g}%"


def reason_counts(rejected: Mapping[str, int], most: int = 3) -> str:
    """Write the most frequent reasons for which rows were rejected, each with its rows."""
    shown = ", ".join(f"{count:,} x {reason}" for reason, count in list(rejected.items())[:most])
    return f"{shown}, ..." if len(rejected) > most else shown or "no rows"


def decimal(value: float, digits: int = 2) -> str:
    """Write a number with so many decimals and a true minus sign."""
    # Adding 0.0 turns the -0.0 that rounding can leave into 0.0.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", _MINUS)


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})" if total else f"{count:,}"


def markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table: the first column to the left, numbers to the right."""
    rows = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "".join("| " + " | ".join(inline(cell) for cell in row) + " |\n" for row in rows)
