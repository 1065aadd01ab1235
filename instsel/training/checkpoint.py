"""Checkpoints of LoRA training, independent of how it was sharded: a PEFT adapter, Adam's moments by name, a JSON.

They can be read without DeepSpeed.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from instsel.errors import Diverged, InputError
from instsel.training.schedule import ADAPTER, ADAPTER_CONFIG, MOMENTS, STATE

FORMAT = 1
SHOWN = 3

Moments = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class CheckpointState:
    """The JSON of a checkpoint.

    Attributes:
        epoch: completed epochs.
        step: completed optimizer steps.
        learning_rate: mean over the epoch's steps; in a checkpoint inside an epoch, that of the last step.
        betas: AdamW's decay rates.
        eps: AdamW's denominator constant.
        partial_epoch: sums of an incomplete epoch: losses of its rows, learning rates of its steps, and tokens.
        format: version of the folder format.
    """

    epoch: int
    step: int
    learning_rate: float
    betas: tuple[float, float]
    eps: float
    partial_epoch: tuple[float, float, int] = (0.0, 0.0, 0)
    format: int = FORMAT


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def check_finite(weights: Mapping[str, Tensor], moments: Moments, step: int) -> None:
    """Check that a run has not diverged.

    Raises:
        Diverged: a weight or moment is not finite.
    """
    for name, weight in weights.items():
        if not all(torch.isfinite(tensor).all() for tensor in (weight, *moments[name])):
            raise Diverged(
                f"training diverged by step {step}: {name} or its moments are not finite; lower learning_rate, "
                "or set model.dtype to float32"
            )


def write_checkpoint(
    folder: Path, model: nn.Module, weights: Mapping[str, Tensor], moments: Moments, state: CheckpointState
) -> None:
    """Write a checkpoint folder.

    Args:
        folder: an existing, empty folder.
        model: the PEFT model; only its adapter configuration is used.
        weights: every trained weight by name, float32, unsharded.
        moments: AdamW's (exp_avg, exp_avg_sq) by the same names, float32, unsharded.
        state: content of the JSON.
    """
    tensors = {f"exp_avg/{name}": first for name, (first, _) in moments.items()}
    tensors |= {f"exp_avg_sq/{name}": second for name, (_, second) in moments.items()}
    peft_model: Any = model
    # PEFT would otherwise look up on the hub whether the vocabulary was changed.
    peft_model.save_pretrained(str(folder), state_dict=dict(weights), save_embedding_layers=False)
    _sort_names(folder / ADAPTER_CONFIG)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / MOMENTS)
    (folder / STATE).write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")


def _sort_names(path: Path) -> None:
    """Write the names of the layers in order: PEFT has a set of them, whose order differs from process to process."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config["target_modules"], list):
        config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def read_checkpoint(folder: Path, model: nn.Module) -> tuple[Moments, CheckpointState]:
    """Read Adam's moments and the JSON of a checkpoint folder.

    Args:
        folder: a checkpoint folder on a local path.
        model: the model whose trainable parameters the moments must match by name and shape.

    Returns:
        {parameter name: (exp_avg, exp_avg_sq)}, float32 on the CPU, in the order of the model's parameters; and what
        the JSON says.

    Raises:
        InputError: a file is missing or broken, or the moments belong to another model; the first few names are listed.
    """
    tensors = _load(folder / MOMENTS)
    shapes = {name: tuple(parameter.shape) for name, parameter in trainable(model).items()}
    _check_names(folder, tensors, shapes)
    moments = {}
    for name, shape in shapes.items():
        pair = tensors[f"exp_avg/{name}"], tensors[f"exp_avg_sq/{name}"]
        for key, tensor in zip(("exp_avg", "exp_avg_sq"), pair, strict=True):
            if tuple(tensor.shape) != shape:
                raise InputError(
                    f"{folder / MOMENTS}: {key}/{name} has shape {tuple(tensor.shape)}, but the model's parameter has "
                    f"{shape}; use the checkpoint of this model and LoRA rank"
                )
        moments[name] = pair
    return moments, _state(folder)


def load_adapter(folder: Path, model: nn.Module) -> None:
    """Load a checkpoint's adapter weights into a PEFT model of the same shape.

    Raises:
        InputError: the file is missing or broken, or its matrices do not match.
    """
    from peft import set_peft_model_state_dict

    weights = _load(folder / ADAPTER)
    try:
        outcome: Any = set_peft_model_state_dict(model, weights)
    except RuntimeError as error:
        raise InputError(f"{folder / ADAPTER} does not fit the model: {str(error).splitlines()[-1].strip()}") from error
    missing = [name for name in outcome.missing_keys if name in trainable(model)]
    wrong = [*missing, *outcome.unexpected_keys]
    if wrong:
        raise InputError(f"{folder / ADAPTER} does not fit the model: {_some(wrong)} missing or unknown")


def _check_names(folder: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, Any]) -> None:
    expected = {f"{key}/{name}" for key in ("exp_avg", "exp_avg_sq") for name in shapes}
    missing, unknown = sorted(expected - tensors.keys()), sorted(tensors.keys() - expected)
    if missing or unknown:
        parts = [f"{_some(missing)} missing"] if missing else []
        parts += [f"{_some(unknown)} not in the model"] if unknown else []
        raise InputError(
            f"{folder / MOMENTS} does not match the model's trainable parameters: {'; '.join(parts)}; "
            "use the checkpoint of this model and these LoRA target modules"
        )


def _load(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a checkpoint folder that was written by instsel")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is broken ({error}); remove the folder and train again") from error


def _state(folder: Path) -> CheckpointState:
    path = folder / STATE
    try:
        state = CheckpointState(**json.loads(path.read_text(encoding="utf-8")))
        # JSON has lists in their place.
        (first, second), (loss, learning_rate, tokens) = state.betas, state.partial_epoch
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is missing or broken ({error}); remove the folder and train again") from error
    if state.format != FORMAT:
        raise InputError(f"{path} has format {state.format}; this version reads format {FORMAT}")
    return replace(state, betas=(first, second), partial_epoch=(loss, learning_rate, tokens))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
