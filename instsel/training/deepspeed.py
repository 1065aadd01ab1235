"""DeepSpeed: configuration, import, and access to sharded parameters and optimizer states."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from instsel.errors import InputError
from instsel.training.checkpoint import Moments, trainable
from instsel.training.schedule import TrainSettings, accumulation_steps, rows_at_once

AUTO = "auto"
KEYS = ("exp_avg", "exp_avg_sq")
# DeepSpeed's default of 5e8 elements reserves gigabytes; gradients of LoRA matrices need far less.
BUCKET_ELEMENTS = 20_000_000


def import_deepspeed() -> ModuleType:
    """Import DeepSpeed, silent below errors, without its shared-memory collective, which would have to be compiled."""
    logging.getLogger("DeepSpeed").addFilter(_errors_only)
    with _without_unused_parts():
        import deepspeed

        # DeepSpeed imports it with the first optimizer; older versions do not have it.
        with suppress(ImportError):
            import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    module: ModuleType = deepspeed
    return module


@contextmanager
def _without_unused_parts() -> Iterator[None]:
    """Skip imports for parts of DeepSpeed that are not used here, which take two seconds in every process.

    Its autotuner imports MLflow if installed; decorators of its Muon optimizer import torch's compiler.
    """
    import torch

    compiler = torch.compile
    hide = "mlflow" not in sys.modules
    compiling: Any = lambda model=None, **_: model if model is not None else (lambda function: function)  # noqa: E731
    torch.compile = compiling
    if hide:
        # Python treats such a module as not installed.
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compiler
        if hide:
            del sys.modules["mlflow"]


def _errors_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def read_json(path: str) -> dict[str, JsonValue]:
    """Read a DeepSpeed configuration file.

    Raises:
        InputError: the file is missing, not JSON, or not an object.
    """
    try:
        value = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"deepspeed.config: {path} cannot be read ({error.strerror}); correct the path") from error
    except ValueError as error:
        raise InputError(f"deepspeed.config: {path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"deepspeed.config: {path} holds a {type(value).__name__}; expected a JSON object")
    return value


def complete(settings: TrainSettings, world_size: int) -> dict[str, JsonValue]:
    """Complete the configuration for `deepspeed.initialize`, with torch's AdamW as client optimizer.

    Values that the study file determines (batch sizes, clipping, optimizer) may be absent, "auto", or equal to it. Any
    other "auto" becomes DeepSpeed's default.

    Args:
        settings: the run's settings, with the user's configuration in `settings.deepspeed`.
        world_size: number of workers.

    Returns:
        A new dict without "auto".

    Raises:
        InputError: a value contradicts the study file, or is not supported for LoRA checkpoints.
    """
    user = settings.deepspeed
    micro = rows_at_once(settings.batch_size, settings.micro_batch_size, world_size)
    accumulation = accumulation_steps(settings.batch_size, micro, world_size)
    _same(user, "train_batch_size", settings.batch_size, "batch_size")
    _same(user, "train_micro_batch_size_per_gpu", micro, "micro_batch_size")
    _same(user, "gradient_accumulation_steps", accumulation, "batch_size, micro_batch_size and the number of workers")
    _same(user, "gradient_clipping", settings.max_grad_norm, "max_grad_norm")
    _check_optimizer(section(user, "optimizer"), settings)
    _check_scheduler(section(user, "scheduler"))
    replaced = ("train_batch_size", "optimizer", "scheduler", "fp16")
    config = _without_auto({key: value for key, value in user.items() if key not in replaced})
    return {
        **config,
        **_precision(user, settings.dtype),
        "zero_optimization": _zero(section(user, "zero_optimization")),
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": settings.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def section(user: Mapping[str, JsonValue], key: str) -> dict[str, JsonValue]:
    """Return a section of a DeepSpeed configuration; empty if it has none.

    Raises:
        InputError: the value is not an object.
    """
    part = user.get(key, {})
    if not isinstance(part, dict):
        raise InputError(f"deepspeed.config: {key} is {part!r}; expected an object")
    return part


def _same(part: Mapping[str, object], key: str, expected: object, source: str) -> None:
    value = part.get(key, AUTO)
    if value not in (AUTO, expected):
        raise InputError(
            f"deepspeed.config: {key} is {value!r}, but the study file's {source} makes it {expected!r}; "
            f'write "auto" or change the study file'
        )


def _check_optimizer(optimizer: Mapping[str, JsonValue], settings: TrainSettings) -> None:
    name = optimizer.get("type", "AdamW")
    if str(name).lower() not in ("adam", "adamw"):
        raise InputError(f"deepspeed.config: optimizer.type is {name!r}; only AdamW has the moments that features need")
    params = section(optimizer, "params")
    betas = params.get("betas", AUTO)
    _same({"betas": tuple(betas) if isinstance(betas, list) else betas}, "betas", settings.betas, "optimizer")
    _same(params, "lr", settings.learning_rate, "learning_rate")
    _same(params, "eps", settings.eps, "optimizer")
    _same(params, "weight_decay", settings.weight_decay, "weight_decay")
    _same(params, "adam_w_mode", True, "optimizer")


def _check_scheduler(scheduler: Mapping[str, JsonValue]) -> None:
    fixed = [key for key, value in section(scheduler, "params").items() if value != AUTO]
    if fixed:
        raise InputError(
            f"deepspeed.config: scheduler.params.{fixed[0]} is fixed, but the study file's schedule and warmup_ratio "
            "set the learning rate; remove the scheduler section"
        )


def _precision(user: Mapping[str, JsonValue], dtype: str) -> dict[str, JsonValue]:
    """Configure bfloat16 as autocast: frozen weights in bfloat16, trained weights and gradients in float32."""
    if section(user, "fp16").get("enabled", AUTO) not in (AUTO, False):
        raise InputError("deepspeed.config: fp16.enabled is true; use bfloat16 or float32 (model.dtype) instead")
    low = dtype == "bfloat16"
    for key in ("bf16", "torch_autocast"):
        value = section(user, key).get("enabled", AUTO)
        if value not in (AUTO, False, low):
            raise InputError(
                f"deepspeed.config: {key}.enabled is {value!r}, but model.dtype is {dtype}; make them agree"
            )
    if section(user, "bf16").get("enabled", AUTO) is True:
        if not section(user, "zero_optimization").get("stage", 0):
            raise InputError('deepspeed.config: bf16.enabled is true without ZeRO; write "auto", or set a ZeRO stage')
        return {}
    return {
        "bf16": {"enabled": False},
        # If no module is listed as safe, gradients are reduced in float32.
        "torch_autocast": {"enabled": low, "dtype": "bfloat16", "lower_precision_safe_modules": []},
    }


def _zero(user: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    zero = {"reduce_bucket_size": BUCKET_ELEMENTS, "allgather_bucket_size": BUCKET_ELEMENTS, **_without_auto(user)}
    if zero.setdefault("stage", 0) not in (0, 1, 2, 3):
        raise InputError(f"deepspeed.config: zero_optimization.stage is {zero['stage']!r}; expected 0, 1, 2 or 3")
    if section(zero, "offload_optimizer").get("device") == "nvme":
        raise InputError("deepspeed.config: offload_optimizer.device is 'nvme'; LoRA's moments are small, use 'cpu'")
    return zero


def _without_auto(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_auto(inner) for key, inner in value.items() if inner != AUTO}


def collect_parameters(engine: Any, model: nn.Module) -> tuple[dict[str, Tensor], Moments]:
    """Collect trained weights and AdamW moments by parameter name: float32, unsharded, on the CPU.

    The engine must have taken a step; all workers have to call this together.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    weights, moments = {}, {}
    for name, parameter in trainable(model).items():
        if engine.zero_optimization_stage() == 0:
            state = engine.optimizer.state[parameter]
            tensors = [parameter.detach(), *(state[key] for key in KEYS)]
        else:
            tensors = [safe_get_full_fp32_param(parameter)]
            tensors += [safe_get_full_optimizer_state(parameter, key) for key in KEYS]
        weight, first, second = (tensor.float().cpu().clone() for tensor in tensors)
        weights[name], moments[name] = weight, (first, second)
    return weights, moments


def restore(engine: Any, model: nn.Module, weights: dict[str, Tensor], moments: Moments, step: int) -> None:
    """Set float32 weights, AdamW's moments and step count in an engine that has not taken a step yet."""
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
    """Create the state that AdamW would create in its first step: ZeRO's setters can only fill existing state."""
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
