"""A plan as a person reads it."""

from collections.abc import Sequence

from instsel.planning.stage import StagePlan
from instsel.planning.units import size, span
from instsel.report.markdown import markdown_table

NONE = "\N{EN DASH}"
HEADER = ["stage", "rows", "tokens", "batches", "time", "memory", "GPU memory", "disk"]


def plan_table(stages: Sequence[StagePlan]) -> str:
    """Lay out the stages and, below, what all of them take, as a Markdown table; a GPU column where there is a GPU."""
    open_stages = [stage for stage in stages if not stage.done]
    body = [_row(stage) for stage in stages]
    times = [stage.seconds for stage in open_stages]
    known = sum(seconds for seconds in times if seconds is not None)
    whole = span(known) if None not in times else f"> {span(known)}"
    gpu = max((stage.gpu_memory for stage in stages), default=0)
    peak = max((stage.together * (stage.memory or 0) for stage in open_stages), default=0)
    disk = sum(stage.disk for stage in stages)
    body.append(["all", NONE, NONE, NONE, whole, size(peak), size(gpu), size(disk)])
    shown = [place for place, name in enumerate(HEADER) if gpu or name != "GPU memory"]
    return markdown_table([HEADER[place] for place in shown], [[cells[place] for place in shown] for cells in body])


def _row(stage: StagePlan) -> list[str]:
    if stage.done:
        return [stage.name, NONE, NONE, NONE, "done", NONE, NONE, NONE]
    memory = NONE if stage.memory is None else size(stage.memory)
    return [
        stage.name,
        *(NONE if number is None else f"{number:,}" for number in (stage.rows, stage.tokens, stage.batches)),
        NONE if stage.seconds is None else span(stage.seconds),
        f"{stage.together} x {memory}" if stage.together > 1 else memory,
        size(stage.gpu_memory) if stage.gpu_memory else NONE,
        size(stage.disk),
    ]
