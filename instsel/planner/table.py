"""A plan as a person reads it."""

from collections.abc import Sequence

from instsel.report.markdown import markdown_table
from instsel.study.estimates import StageEstimate

NONE = "\N{EN DASH}"
HEADER = ["stage", "rows", "tokens", "batches", "time", "memory", "GPU memory", "disk", "cost"]
SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
SPANS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))


def format_bytes(number: float) -> str:
    """Return bytes in powers of ten: 4434804736 is "4.4 GB"."""
    for unit, name in SIZES:
        if number >= unit:
            value = number / unit
            return f"{value:.1f} {name}" if value < 99.95 else f"{value:.0f} {name}"
    return f"{number:.0f} B"


def format_seconds(seconds: float) -> str:
    """Return seconds as "40 s", "4.2 min", "2.3 h" or "3.1 days"."""
    for unit, name in SPANS:
        if seconds >= 1.5 * unit:
            value = seconds / unit
            return f"{value:.1f} {name}" if value < 9.95 else f"{value:,.0f} {name}"
    return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"


def plan_table(stages: Sequence[StageEstimate], cost_a_second: float | None = None) -> str:
    """Lay out the stages and, below, what all of them take, as a Markdown table.

    It has a GPU column where there is a GPU, and a column of cost where it is known what a second of the cluster costs.
    """
    open_stages = [stage for stage in stages if not stage.done]
    price = cost_a_second or 0.0
    body = [_row(stage, price) for stage in stages]
    times = [stage.seconds for stage in open_stages]
    known = sum(seconds for seconds in times if seconds is not None)
    least = "> " if None in times else ""
    gpu = max((stage.gpu_memory for stage in stages), default=0)
    peak = max((stage.together * (stage.memory or 0) for stage in open_stages), default=0)
    disk = sum(stage.disk for stage in stages)
    sums = [f"{least}{format_seconds(known)}", format_bytes(peak), format_bytes(gpu), format_bytes(disk)]
    body.append(["all", NONE, NONE, NONE, *sums, f"{least}{_cost(known, price)}"])
    hidden = {*(() if gpu else ("GPU memory",)), *(() if cost_a_second else ("cost",))}
    shown = [index for index, name in enumerate(HEADER) if name not in hidden]
    return markdown_table([HEADER[index] for index in shown], [[cells[index] for index in shown] for cells in body])


def _row(stage: StageEstimate, price: float) -> list[str]:
    if stage.done:
        return [stage.name, NONE, NONE, NONE, "done", *[NONE] * 4]
    memory = NONE if stage.memory is None else format_bytes(stage.memory)
    return [
        stage.name,
        *(NONE if number is None else f"{number:,}" for number in (stage.rows, stage.tokens, stage.batches)),
        NONE if stage.seconds is None else format_seconds(stage.seconds),
        f"{stage.together} x {memory}" if stage.together > 1 else memory,
        format_bytes(stage.gpu_memory) if stage.gpu_memory else NONE,
        format_bytes(stage.disk),
        NONE if stage.seconds is None else _cost(stage.seconds, price),
    ]


def _cost(seconds: float, price: float) -> str:
    return f"{seconds * price:,.2f}"
