"""Where in a model the trainable parameters are: the modules that own them, plain LoRA layers, and blocks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from instsel.gradients.taps import LoraLayer


class Site(NamedTuple):
    """A module that owns trainable parameters, by the names that model.named_parameters() gives them."""

    module: nn.Module
    weight: str | None
    bias: str | None
    transposed: bool


class LoraSite(NamedTuple):
    """A PEFT layer that is done as a whole, with the names of its two trainable matrices."""

    module: nn.Module
    layer: LoraLayer
    down: str
    up: str


def linear_sites(model: nn.Module) -> list[Site]:
    """The modules that own trainable parameters.

    Raises:
        ValueError: There is none, one is no linear map, or a module of the model mixes examples.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not names:
        raise ValueError("the model has no trainable parameter; attach a LoRA adapter with is_trainable=True")
    sites = []
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(f"{path} is a {type(module).__name__}: it mixes examples; expected none in the model")
        owned = {key: names[id(value)] for key, value in module.named_parameters(recurse=False) if id(value) in names}
        if not owned:
            continue
        transposed = _is_conv1d(module)
        if not (transposed or isinstance(module, nn.Linear)) or not owned.keys() <= {"weight", "bias"}:
            raise ValueError(
                f"{next(iter(owned.values()))} belongs to a {type(module).__name__}; per-example gradients can be "
                "taken of Linear and Conv1D modules only: train those, or set requires_grad to False"
            )
        sites.append(Site(module, owned.get("weight"), owned.get("bias"), transposed))
    return sites


def lora_sites(model: nn.Module, trainable: Mapping[str, Tensor]) -> list[LoraSite]:
    """The LoRA layers of PEFT that are as plain as `LoraTap`, their two matrices trainable and their base frozen."""
    names = {id(parameter): name for name, parameter in trainable.items()}
    sites = []
    for module in model.modules():
        layer = _plain_lora(module)
        if layer is None or any(id(parameter) in names for parameter in layer.base.parameters()):
            continue
        if id(layer.down) in names and id(layer.up) in names:
            sites.append(LoraSite(module, layer, names[id(layer.down)], names[id(layer.up)]))
    return sites


def blocks(model: nn.Module) -> list[nn.Module]:
    """The members of the model's outermost module lists: what transformers stacks and calls one after another."""
    found: list[nn.Module] = []
    for child in model.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks(child)
    return found


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """In it the model is in evaluation mode and no parameter requires a gradient; after it, all is as it was."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = [module for module in model.modules() if module.training]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        model.eval()
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """In it the module computes `forward`; its hooks stay."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def _plain_lora(module: nn.Module) -> LoraLayer | None:
    # By names, as PEFT is not imported here. Its dropout is off where gradients are taken.
    kind: Any = type(module)
    if (kind.__module__, kind.__name__) != ("peft.tuners.lora.layer", "Linear"):
        return None
    peft: Any = module
    active = [name for name in peft.active_adapters if name in peft.lora_A]
    if len(active) != 1 or peft.merged or peft.disable_adapters or active[0] in peft.lora_variant:
        return None
    base, down, up = peft.base_layer, peft.lora_A[active[0]], peft.lora_B[active[0]]
    dense = (type(base) is nn.Linear or _is_conv1d(base)) and base.weight.is_floating_point()
    # A forward of an instance's own was put there by someone who wants it called.
    untouched = all("forward" not in vars(part) for part in (peft, down, up))
    if not dense or not untouched or down.bias is not None or up.bias is not None:
        return None
    return LoraLayer(base, down.weight, up.weight, float(peft.scaling[active[0]]))


def _is_conv1d(module: nn.Module) -> bool:
    # By name, as transformers is not imported here.
    return type(module).__name__ == "Conv1D"
