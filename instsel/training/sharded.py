"""Whole weights and Adam moments out of a DeepSpeed engine and back into it, under any ZeRO stage and world size.

Every function is a round of collectives: all workers call it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from instsel.training.checkpoint import Moments, trainable

KEYS = ("exp_avg", "exp_avg_sq")


def gather(engine: Any, model: nn.Module) -> tuple[dict[str, Tensor], Moments]:
    """Trained weights and AdamW moments by parameter name: float32, whole, on the CPU. A step must have been taken."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    weights, moments = {}, {}
    for name, parameter in trainable(model).items():
        if engine.zero_optimization_stage() == 0:
            state = engine.optimizer.state[parameter]
            whole = [parameter.detach(), *(state[key] for key in KEYS)]
        else:
            whole = [safe_get_full_fp32_param(parameter)]
            whole += [safe_get_full_optimizer_state(parameter, key) for key in KEYS]
        weight, first, second = (tensor.float().cpu().clone() for tensor in whole)
        weights[name], moments[name] = weight, (first, second)
    return weights, moments


def restore(engine: Any, model: nn.Module, weights: dict[str, Tensor], moments: Moments, step: int) -> None:
    """Put float32 weights, AdamW's moments and its step count into an engine that has not taken a step yet."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    _create_adam_state(engine, step)
    for name, parameter in trainable(model).items():
        if engine.zero_optimization_stage() == 0:
            state = engine.optimizer.state[parameter]
            for key, tensor in zip(KEYS, moments[name], strict=True):
                state[key].copy_(tensor)
            continue
        safe_set_full_fp32_param(parameter, weights[name].to(engine.device))
        for key, tensor in zip(KEYS, moments[name], strict=True):
            safe_set_full_optimizer_state(parameter, tensor.to(engine.device), key)


def _create_adam_state(engine: Any, step: int) -> None:
    """Give AdamW the state that it would otherwise make in its first step: ZeRO's setters can only fill what exists."""
    zero = engine.optimizer
    stage = engine.zero_optimization_stage()
    if stage == 0:
        adam, shards = zero, [parameter for group in zero.param_groups for parameter in group["params"]]
    elif stage == 3:
        adam, shards = zero.optimizer, zero.fp32_partitioned_groups_flat
    else:
        adam, shards = zero.optimizer, zero.single_partition_of_fp32_groups
    for shard in shards:
        # AdamW counts its steps in a float32 tensor on the CPU.
        adam.state[shard] = {"step": torch.tensor(float(step)), **{key: torch.zeros_like(shard) for key in KEYS}}
    if stage in (1, 2):
        zero._lazy_init_hp_params_optimizer_state()
