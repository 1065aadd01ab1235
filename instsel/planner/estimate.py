"""What the stages of a study say they will take, and what of it will not fit."""

from collections.abc import Sequence
from dataclasses import dataclass

from instsel.planner.table import format_bytes
from instsel.study.estimates import PlanContext, StageEstimate
from instsel.study.graph import StageGraph
from instsel.study.stage import Stage, StageKey


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
