"""A plan as a person reads it."""

from collections.abc import Sequence

from instsel.planner.facts import StagePlan, size, span
from instsel.report.markdown import markdown_table

NONE = "\N{EN DASH}"
HEADER = ["stage", "rows", "tokens", "batches", "time", "memory", "GPU memory", "disk", "cost"]


def plan_table(stages: Sequence[StagePlan], cost_a_second: float | None = None) -> str:
    """Lay out the stages and, below, what all of them take, as a Markdown table.

    It has a GPU column where there is a GPU, and one of cost where it is known what a second of the cluster costs.
    """
    open_stages = [stage for stage in stages if not stage.done]
    rate = cost_a_second or 0.0
    body = [_row(stage, rate) for stage in stages]
    times = [stage.seconds for stage in open_stages]
    known = sum(seconds for seconds in times if seconds is not None)
    whole = span(known) if None not in times else f"> {span(known)}"
    gpu = max((stage.gpu_memory for stage in stages), default=0)
    peak = max((stage.together * (stage.memory or 0) for stage in open_stages), default=0)
    disk = sum(stage.disk for stage in stages)
    cost = _cost(known, rate) if None not in times else f"> {_cost(known, rate)}"
    body.append(["all", NONE, NONE, NONE, whole, size(peak), size(gpu), size(disk), cost])
    hidden = {*(() if gpu else ("GPU memory",)), *(() if cost_a_second else ("cost",))}
    shown = [place for place, name in enumerate(HEADER) if name not in hidden]
    return markdown_table([HEADER[place] for place in shown], [[cells[place] for place in shown] for cells in body])


def _row(stage: StagePlan, rate: float) -> list[str]:
    if stage.done:
        return [stage.name, NONE, NONE, NONE, "done", *[NONE] * 4]
    memory = NONE if stage.memory is None else size(stage.memory)
    return [
        stage.name,
        *(NONE if number is None else f"{number:,}" for number in (stage.rows, stage.tokens, stage.batches)),
        NONE if stage.seconds is None else span(stage.seconds),
        f"{stage.together} x {memory}" if stage.together > 1 else memory,
        size(stage.gpu_memory) if stage.gpu_memory else NONE,
        size(stage.disk),
        NONE if stage.seconds is None else _cost(stage.seconds, rate),
    ]


def _cost(seconds: float, rate: float) -> str:
    return f"{seconds * rate:,.2f}"
