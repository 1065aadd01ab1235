"""`model.dtype: auto`: resolved once a study, from all machines that do its work."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from instsel.config.study import StudyConfig
from instsel.console import Terminal, log
from instsel.errors import StudyError
from instsel.io.store import Folder
from instsel.models.dtypes import EMULATION_COST, Device, Dtype, decide_dtype, describe_devices, this_device, with_dtype
from instsel.runtime.session import cluster_nodes, cluster_resources
from instsel.study.dtype import read_dtype, write_dtype
from instsel.study.resources import ACCELERATOR_LABEL

# How long to wait for a machine that is busy or still starting. The others decide without it.
ANSWER_SECONDS = 60
# A task that asks for any part of a GPU can see it.
SMALLEST_GPU = 0.001


def working_nodes(nodes: Sequence[Mapping[str, Any]], accelerator: str | None = None) -> list[str]:
    """Select from `ray.nodes()` the ids of nodes that do the work: those with GPUs if there are any, else with CPUs."""
    alive = [node for node in nodes if node["Alive"]]
    if accelerator is not None:
        alive = [node for node in alive if node.get("Labels", {}).get(ACCELERATOR_LABEL) == accelerator]
    kinds = ([node["NodeID"] for node in alive if node["Resources"].get(kind)] for kind in ("GPU", "CPU"))
    return next((ids for ids in kinds if ids), [])


def working_devices(accelerator: str | None = None) -> list[Device]:
    """Ask the machines of the cluster that do the work for the device that they compute models on."""
    working = working_nodes(cluster_nodes(), accelerator)
    gpus = SMALLEST_GPU if cluster_resources().get("GPU") else 0
    if working == [ray.get_runtime_context().get_node_id()]:
        return [this_device(has_gpu=bool(gpus))]
    task: Any = ray.remote(num_cpus=0, num_gpus=gpus)(this_device)
    pending = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(has_gpu=bool(gpus))
        for node in working
    ]
    answered, silent = ray.wait(pending, num_returns=len(pending), timeout=ANSWER_SECONDS)
    for reference in silent:
        ray.cancel(reference, force=True)
    if silent:
        log.warning("%d of %d machines did not say what they compute on", len(silent), len(pending))
    devices = []
    for reference in answered:
        # A machine that has gone away meanwhile does none of the work.
        with suppress(RayError):
            devices.append(ray.get(reference))
    return devices


def settle_dtype(study: StudyConfig, folder: Folder, terminal: Terminal, *, write: bool = True) -> StudyConfig:
    """Replace `auto` by a type and print it, with a warning where machines emulate that type.

    Args:
        study: configuration as its file has it.
        folder: of the study.
        terminal: where the type is printed.
        write: whether to record a type that is resolved now in the folder.

    Raises:
        StudyError: the type is to be resolved, and no machine answered.
    """
    devices = working_devices(study.resources.accelerator)
    emulating = [device for device in devices if not device.native]
    dtype: Dtype
    if study.model.dtype != "auto":
        dtype, how = study.model.dtype, "as the study file has it"
    elif (known := read_dtype(folder)) is not None:
        dtype, how = known.dtype, "auto, as it was settled when the study began"
    elif not devices:
        raise StudyError(
            f"model.dtype: none of the machines said within {ANSWER_SECONDS} s what it computes on; are all of their "
            "GPUs taken? Run again when one is free, or write model.dtype: bfloat16 or float32"
        )
    else:
        settled = decide_dtype(devices)
        dtype, how = settled.dtype, f"auto, since {settled.reason}"
        if write:
            write_dtype(folder, settled)
    terminal.say(f"model.dtype: {dtype} ({how})")
    if dtype == "bfloat16" and emulating:
        terminal.say(
            f"warning: {describe_devices(emulating)} emulates bfloat16, which is {EMULATION_COST}; float32 needs "
            "another study folder: --set model.dtype=float32 --set out=..."
        )
    return with_dtype(study, dtype)
