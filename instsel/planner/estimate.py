"""What the stages of a study say they will take, what of it will not fit, and the table in which a person reads it."""

from collections.abc import Sequence
from dataclasses import dataclass

from instsel.report.markdown import markdown_table
from instsel.study.estimates import PlanContext, StageEstimate
from instsel.study.graph import StageGraph
from instsel.study.stage import Stage, StageKey

NONE = "\N{EN DASH}"
HEADER = ["stage", "rows", "tokens", "batches", "time", "memory", "GPU memory", "disk", "cost"]
SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
SPANS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))


def open_stages(graph: StageGraph) -> dict[str, list[str]]:
    """Return the stages that a plan shows, in their order, each with its keys that are not done.

    Those are the stages that the study needs and that make estimates.
    """
    stages: dict[str, list[str]] = {}
    for folder in graph.until(graph.stages[-1].name):
        name = StageKey.parse(folder.name).stage
        if type(graph.stage(name)).estimate is not Stage.estimate:
            keys = stages.setdefault(name, [])
            if not folder.done():
                keys.append(folder.key)
    return stages


def estimate_stages(context: PlanContext, stages: dict[str, list[str]]) -> list[StageEstimate]:
    """Ask the stages what their open keys will take; a stage without any is done."""
    estimates = [
        context.graph.stage(name).estimate(context, keys) if keys else StageEstimate(name, done=True)
        for name, keys in stages.items()
    ]
    return [estimate for estimate in estimates if estimate is not None]


@dataclass(frozen=True)
class Capacity:
    """What a study has to fit into.

    Attributes:
        out: folder of the study.
        free_disk: bytes free there; None where nobody can tell, as on an object store.
        machine: memory of the smallest machine that a stage may run on, bytes; None where nobody can tell.
    """

    out: str
    free_disk: int | None
    machine: int | None


def find_shortages(stages: Sequence[StageEstimate], capacity: Capacity) -> list[str]:
    """Return a line for everything that is too large; none where all fits."""
    return [*_disk(stages, capacity), *_memory(stages, capacity), *_tried(stages)]


def _disk(stages: Sequence[StageEstimate], capacity: Capacity) -> list[str]:
    needed = sum(stage.disk for stage in stages)
    if capacity.free_disk is None or needed <= capacity.free_disk:
        return []
    largest = max(stages, key=lambda stage: stage.disk)
    whole = f"the stages need {format_bytes(needed)}, {largest.name} alone {format_bytes(largest.disk)}"
    alone = f"{largest.name} needs {format_bytes(largest.disk)}"
    change = f"free some or choose another `out`{f'; or {largest.disk_advice}' if largest.disk_advice else ''}"
    return [
        f"disk: {alone if largest.disk > capacity.free_disk else whole}, "
        f"{capacity.out} has {format_bytes(capacity.free_disk)} free; {change}"
    ]


def _memory(stages: Sequence[StageEstimate], capacity: Capacity) -> list[str]:
    lines = []
    for stage in stages:
        needed = stage.together * (stage.memory or 0)
        if capacity.machine is None or needed <= capacity.machine:
            continue
        each = f"{stage.together} x {format_bytes(stage.memory or 0)}" if stage.together > 1 else format_bytes(needed)
        has = format_bytes(capacity.machine)
        lines.append(f"memory: {stage.name} needs {each} on a machine that has {has}{_advice(stage)}")
    return lines


def _tried(stages: Sequence[StageEstimate]) -> list[str]:
    """Return what was seen when batches were tried."""
    lines = []
    for stage in stages:
        kind = "GPU memory" if stage.gpu_total else "memory"
        if stage.exhausted:
            lines.append(f"{kind}: {stage.name} ran out of it on the longest rows{_advice(stage)}")
        elif stage.token_budget:
            lines.append(f"{kind}: {stage.name} ran out of it; batches of {stage.token_budget:,} tokens fit")
        elif stage.gpu_memory > stage.gpu_total:
            needed, has = format_bytes(stage.gpu_memory), format_bytes(stage.gpu_total)
            lines.append(f"{kind}: {stage.name} needs {needed} on a GPU that has {has}{_advice(stage)}")
    return lines


def _advice(stage: StageEstimate) -> str:
    return f"; {stage.memory_advice}" if stage.memory_advice else ""


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
