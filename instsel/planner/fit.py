"""What will not fit, and what to change."""

from collections.abc import Sequence
from dataclasses import dataclass

from instsel.gradients.features import Storage
from instsel.planner.facts import StagePlan, size

# Keys that lower a stage's memory, of the machine and of its GPU.
MEMORY_KEYS = {
    "prepare": "lower data.shard_rows",
    "embed": "lower embedding.token_budget or resources.actors",
    "hidden_states": "lower features.token_budget or resources.actors",
    "likelihood": "lower evaluation.token_budget or resources.actors",
    "categorize": "lower embedding.token_budget",
    "warmup": "lower warmup.micro_batch_size or resources.training_workers",
    "features": "lower features.token_budget or resources.actors",
    "attribution": "lower features.dim or targets.NAME.max_validation",
    "interaction": "lower mixture.training.micro_batch_size, resources.training_workers or features.token_budget",
    "select": "lower targets.NAME.max_validation, features.dim or selection.budget",
    "finetune": "lower finetune.micro_batch_size or resources.training_workers",
    "evaluate": "lower evaluation.token_budget or resources.actors",
}
DISK_KEYS = {
    "features": "lower features.dim",
    "attribution": "lower targets.NAME.max_validation or, with fisher, features.dim",
    "select": "lower features.dim or targets.NAME.max_validation",
    "warmup": "lower warmup.epochs or lora.rank",
    "finetune": "lower finetune.epochs or lora.rank",
}


@dataclass(frozen=True)
class Capacity:
    """What a study has to fit into.

    Attributes:
        out: folder of the study.
        free_disk: bytes free there; None where nobody can tell, as on an object store.
        machine: memory of the smallest machine that a stage may run on, bytes; None where nobody can tell.
        storage: how features are kept.
    """

    out: str
    free_disk: int | None
    machine: int | None
    storage: Storage = "float16"


def what_will_not_fit(stages: Sequence[StagePlan], room: Capacity) -> list[str]:
    """A line for everything that is too large; none where all fits."""
    return [*_disk(stages, room), *_memory(stages, room), *_tried(stages)]


def _disk(stages: Sequence[StagePlan], room: Capacity) -> list[str]:
    needed = sum(stage.disk for stage in stages)
    if room.free_disk is None or needed <= room.free_disk:
        return []
    largest = max(stages, key=lambda stage: stage.disk)
    whole = f"the stages need {size(needed)}, {largest.name} alone {size(largest.disk)}"
    what = f"{largest.name} needs {size(largest.disk)}" if largest.disk > room.free_disk else whole
    keys = DISK_KEYS.get(largest.name, "")
    if largest.name == "features" and room.storage == "float16":
        keys += ", or set features.storage: int8"
    change = f"free some or choose another `out`{f'; or {keys}' if keys else ''}"
    return [f"disk: {what}, {room.out} has {size(room.free_disk)} free; {change}"]


def _memory(stages: Sequence[StagePlan], room: Capacity) -> list[str]:
    lines = []
    for stage in stages:
        needed = stage.together * (stage.memory or 0)
        if room.machine is None or needed <= room.machine:
            continue
        each = f"{stage.together} x {size(stage.memory or 0)}" if stage.together > 1 else size(needed)
        keys = MEMORY_KEYS[stage.name]
        lines.append(f"memory: {stage.name} needs {each} on a machine that has {size(room.machine)}; {keys}")
    return lines


def _tried(stages: Sequence[StagePlan]) -> list[str]:
    """What was seen when batches were tried."""
    lines = []
    for stage in stages:
        keys = MEMORY_KEYS[stage.name]
        kind = "GPU memory" if stage.gpu_total else "memory"
        if stage.exhausted:
            lines.append(f"{kind}: {stage.name} ran out of it on the longest rows; {keys}")
        elif stage.token_budget:
            lines.append(f"{kind}: {stage.name} ran out of it; batches of {stage.token_budget:,} tokens fit")
        elif stage.gpu_memory > stage.gpu_total:
            has = size(stage.gpu_total)
            lines.append(f"{kind}: {stage.name} needs {size(stage.gpu_memory)} on a GPU that has {has}; {keys}")
    return lines
